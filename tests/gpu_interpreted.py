"""Steps of an optimizer by its generated GPU kernels in Triton's interpreter, against `reference`. A process of its own:

TRITON_INTERPRET=1 python tests/gpu_interpreted.py [--capturable] [--dtype bfloat16] NAME...

prints, as JSON, the largest error of the parameters and of each state, relative to the largest entry. The steps take
the path of the GPU through fast/_optimizer.py and fast/_graphs.py; only the compiled graphs are replaced, by their code in the
interpreter.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import fast._optimizer
from fast import _graphs, _packs
from fast._compile import Kernel
from fast._gpu_calls import OPTIMIZERS, Call, call_of, generate
from fast._interpret import interpret
from fast._pretend_gpu import Generated, pretend
from reference import adam_mini, adams, cautious, cautious_lion, grams, lion

STEPS = 3
# two of one stage and one past the longest row that is kept in registers; two vectors
SHAPES = [(24, 40), (5, 1100), (40, 24), (1500,), (11,)]
HYPER = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.5}
RULES = {
    "Grams": (grams, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "Lion": (lion, {"exp_avg": "m"}),
    "CautiousAdamW": (cautious, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "CautiousLion": (cautious_lion, {"exp_avg": "m"}),
    "AdamMini": (adam_mini, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "Adams": (adams, {"exp_avg": "m", "exp_avg_sq": "v", "u": "u", "sigma": "sigma", "master_param": "w"}),
}
codes: dict[Call, Generated] = {}


class Interpreted:
    """In the place of fast/_graphs.py's Graph."""

    def __init__(self, kernel: Kernel, *_: Any) -> None:
        self.kernel = kernel

    def run(self, update: Any, maximize: bool, values: Sequence[Tensor], tensors: Sequence[Sequence[Tensor]]) -> bool:
        call = call_of(self.kernel, values, tensors)
        if call not in codes:
            codes[call] = generate(call)
        interpret(codes[call], [*values, *(t.detach() for item in zip(*tensors, strict=True) for t in item)])
        return True


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """A step inside works on tensors of the CPU as if they lay on a GPU."""
    batches: dict[Any, list[Any]] = {}

    def kernel(update: Any, maximize: bool, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Kernel:
        return Kernel(update, maximize, torch.device("cuda"), dtypes)

    def collect(kernel: Kernel, compile: bool | None, scalars: Sequence[Any], items: list[Any]) -> None:
        # without `capturable`, a call of the CPU holds the tensors of one shape
        key = kernel, tuple(x if isinstance(x, float | int) else id(x) for x in scalars)
        batches.setdefault(key, [scalars, []])[1].extend(items)

    with ExitStack() as stack:
        for module, name, value in (
            (fast._optimizer, "Kernel", kernel),
            (fast._optimizer, "run_graphs", collect),
            (_packs, "_small", lambda param: False),
            (_graphs, "_graph", Interpreted),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield
        with torch.no_grad():
            for (kernel_of_batch, _), (scalars, items) in batches.items():
                _graphs.run_graphs(kernel_of_batch, None, scalars, items)


def cut(w: Any) -> Any:
    """As bfloat16. Triton 3.7.1's interpreter cuts off what a GPU rounds to nearest."""
    bits = np.asarray(w, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(float)


def errors(name: str, dtype: torch.dtype = torch.float32, capturable: bool = False, seed: int = 0) -> dict[str, float]:
    rule, states = RULES[name]
    draw = np.random.default_rng(seed)
    params = [torch.nn.Parameter(torch.from_numpy(draw.normal(size=s)).to(dtype)) for s in SHAPES]
    optimizer = OPTIMIZERS[name](params, **HYPER, capturable=capturable)
    expected = [p.detach().double().numpy().copy() for p in params]
    memory = [rule.init(w) for w in expected]
    for _ in range(STEPS):
        for i, param in enumerate(params):
            param.grad = torch.from_numpy(draw.normal(size=SHAPES[i])).to(dtype)
            hyper: dict[str, Any] = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.5}
            if name == "AdamMini":
                hyper["blocks"] = "rows" if param.ndim > 1 else "tensor"
            if name == "Adams":
                hyper["reseed"] = True
            w, memory[i] = rule.step(expected[i], param.grad.double().numpy(), memory[i], **hyper)
            # a parameter of a half type is rounded in each step, but where it has a float32 master
            rounded = name != "Adams" and dtype != torch.float32
            expected[i] = cut(w) if rounded else w
        with as_on_a_gpu():
            optimizer.step()
    worst = dict.fromkeys(["param", *states], 0.0)
    for param, w, state in zip(params, expected, memory, strict=True):
        found = {"param": (param.detach(), w if dtype == torch.float32 else cut(w))}
        found |= {
            ours: (optimizer.state[param][ours], w if theirs == "w" else getattr(state, theirs))
            for ours, theirs in states.items()
            if ours in optimizer.state[param]
        }
        for key, (ours, theirs) in found.items():
            a, b = ours.double().numpy().ravel(), np.asarray(theirs, dtype=float).ravel()
            worst[key] = max(worst[key], float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(RULES))
    parser.add_argument("--capturable", action="store_true")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    pretend(90)
    dtype = getattr(torch, given.dtype)
    print(json.dumps({name: errors(name, dtype, given.capturable) for name in given.names}))
