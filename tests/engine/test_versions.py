"""What holds on every torch and with nothing but torch and NumPy; the short part of `make matrix`.

And what of torch's private parts is used where it is found: each is taken away, and the steps stay the same.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Names
from typing import Any

import compiler
import pytest
import torch
from optimizers import OPTIMIZERS, Row
from twin import Twin, give, gradients, parameters, same, train

import fast
from fast import grams
from fast._engine.moments import Variants
from fast._kernels import direct, packs, shortcuts
from fast._kernels.direct import Direct

SHAPES = [(96, 130), (9, 1100), (3, 4, 5), (7,), (2, 2), (6,), ()]  # large ones, and small ones of several forms
STEPS = 12


@pytest.mark.parametrize("without", [None, "DIRECT", "PACKS", "VIEWS"])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=str)
def test_each_optimizer_compiles_agrees_and_goes_on_from_a_checkpoint(
    row: Row, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without:
        monkeypatch.setattr(shortcuts, without, False)
    made, resumed = parameters(SHAPES), parameters(SHAPES)
    optimizer, other = (row.make(p, lr=1e-2, weight_decay=0.1, compile=compiler.expected()) for p in (made, resumed))
    twin = Twin(row, made)
    for i in range(STEPS):
        grads = gradients(made, i)
        give(made, grads)
        optimizer.step()
        twin.step(optimizer.param_groups[0], grads)
        if i == STEPS // 2:
            other.load_state_dict(optimizer.state_dict())
            for p, q in zip(made, resumed, strict=True):
                q.data.copy_(p)
    errors = twin.errors(optimizer)
    assert errors.pop("param") <= (row.param32 or row.fp32) and max(errors.values()) <= row.fp32
    train(other, resumed, range(STEPS // 2 + 1, STEPS))
    assert same([p.detach() for p in resumed], [p.detach() for p in made])
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


# Alone


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert not ran.returncode, ran.stderr
    return ran.stdout


ALGORITHMS = sorted(
    {row.rule.__name__ for row in OPTIMIZERS} | {f"reference.{n}" for n in ("adam", "adamw", "adam_atan2")}
)


def test_fast_imports_torch_alone() -> None:
    code = "import sys, torch; before = set(sys.modules); import fast; print(*set(sys.modules) - before)"
    new = {name.partition(".")[0] for name in python(code).split()}
    assert new - set(sys.stdlib_module_names) <= {"fast", "torch"} and "fast" in new


def test_fast_steps_where_there_is_nothing_but_torch() -> None:
    python(
        "import sys, torch\n"
        "sys.modules.update(dict.fromkeys(['scipy', 'matplotlib', 'sklearn', 'IPython', 'transformers'], None))\n"
        "kept = [name for name in sys.modules if name.partition('.')[0] == 'numpy']\n"
        "sys.modules.update(dict.fromkeys([*kept, 'numpy'], None))\n"
        "import fast\n"
        "for kind in (fast.Grams, fast.Lion, fast.CautiousAdamW, fast.CautiousLion, fast.Adams, fast.AdamMini):\n"
        "    model = torch.nn.Linear(3, 2)\n"
        "    named = model.named_parameters() if kind is fast.AdamMini else model.parameters()\n"
        "    optimizer = kind(named, compile=False)\n"
        "    before = model.weight.detach().clone()\n"
        "    model(torch.ones(4, 3)).sum().backward()\n"
        "    optimizer.step()\n"
        "    assert not torch.equal(before, model.weight)\n"
    )


def test_the_import_of_fast_takes_little_beside_that_of_torch() -> None:
    """Of the processor's time, which other processes do not take; 5 % on a quiet machine."""
    code = (
        "from time import process_time as now; a = now(); import torch; b = now(); import fast; print(b - a, now() - b)"
    )
    seconds = [list(map(float, python(code).split())) for _ in range(3)]
    assert min(own for _, own in seconds) <= 0.15 * min(torchs for torchs, _ in seconds), seconds


@pytest.mark.parametrize("module", ALGORITHMS)
def test_an_algorithm_of_arrays_needs_numpy_alone(module: str) -> None:
    python(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'sympy', 'scipy', 'matplotlib'], None))\n"
        "import numpy as np\n"
        f"import {module} as rule\n"
        "w = np.ones((3, 2))\n"
        "new, state = rule.step(w, w / 2, rule.init(w), lr=0.1)\n"
        "assert new.shape == w.shape and (new < w).all()\n"
    )


def test_a_missing_extra_is_named() -> None:
    for module, package, extra in (
        ("reference.theory.gradient_noise", "scipy", "theory"),
        ("experiments.figures", "matplotlib", "plot"),
        ("experiments.notebooks", "nbformat", "notebooks"),
        ("experiments.tasks.tokens", "tokenizers", "experiments"),
    ):
        said = python(
            f"import sys; sys.modules['{package}'] = None\n"
            f"try: import {module}\n"
            "except ModuleNotFoundError as error: print(error)\n"
        )
        assert said == f"{module} needs {package}: pip install 'adamlab[{extra}]'\n"


# Without what is private to torch


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Nobody finds the module, which torch itself needs, too: only while `fast` looks for it."""
    package, _, name = module.rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(importlib.import_module(package), name, raising=False)
        patch.setitem(sys.modules, module, None)
        yield


def no_vectors(patch: pytest.MonkeyPatch) -> None:
    direct.asking_for_vectors.cache_clear()
    with hidden("torch._inductor.cpu_vec_isa"):
        direct.asking_for_vectors().join()


PRIVATE: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "nothing": lambda patch: None,
    "compile_fx": lambda patch: patch.setattr(direct, "importlib", Names(util=Names(find_spec=lambda name: None))),
    "current_callable": lambda patch: patch.setattr(direct, "inspect", Names(unwrap=lambda function: object())),
    "cpu_vec_isa": no_vectors,
    "_flatten_dense_tensors": lambda patch: patch.setattr(packs, "_flattened", packs._cat_of_any_shape),
    "split_with_sizes_copy": lambda patch: patch.setattr(packs, "_copy_parts", packs._copy_one_by_one),
}


def stepped(compile: bool) -> list[Any]:
    params = parameters(SHAPES)
    optimizer = fast.Grams(params, lr=1e-2, weight_decay=0.1, compile=compile)
    train(optimizer, params, range(4))
    return [[p.detach() for p in params], optimizer.state_dict()["state"]]


@pytest.mark.compiler
@pytest.mark.parametrize("part", PRIVATE)
def test_steps_are_the_same_without(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Direct] = []
    usual = Direct.__init__

    def noted(self: Direct, *args: Any, **options: Any) -> None:
        usual(self, *args, **options)
        calls.append(self)

    right = stepped(compile=False)
    monkeypatch.setattr(Direct, "__init__", noted)
    monkeypatch.setattr(grams, "PAPER", Variants(grams._paper, "N N N N", elementwise=True))  # compiled anew
    PRIVATE[part](monkeypatch)
    torch.testing.assert_close(stepped(compile=True), right, rtol=2e-6, atol=2e-6)
    (call,) = calls
    if part in ("compile_fx", "current_callable"):
        assert not call._known  # each step has gone through Dynamo's guards


def test_an_option_that_this_torch_does_not_know_is_left_out() -> None:
    call = direct.compiled(lambda x: x + 1, dynamic=True, options={"no_such_option": 1, "size_asserts": False})
    assert inspect.isfunction(call)


# The number


def test_the_version_stands_in_one_place_and_was_said_to_change() -> None:
    root = Path(fast.__file__).resolve().parent.parent
    own = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changes, citation = ((root / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    assert re.findall(r"^## \[([\d.]+)\] - ", changes, re.MULTILINE)[0] == own
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [own]
    assert not hasattr(fast, "no_such_name")
    try:
        assert fast.__version__ == importlib.metadata.version("adamlab")
    except AttributeError:  # not installed
        assert not hasattr(fast, "__version__")
