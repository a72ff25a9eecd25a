"""Steps of an optimizer by its generated GPU kernels in Triton's interpreter, against `reference`. A process of its own:

TRITON_INTERPRET=1 python tests/gpu_interpreted.py NAME...

prints, as JSON, the largest error of the parameters and of each state, relative to the largest entry.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import torch

import fast._optimizer
from fast._gpu_calls import OPTIMIZERS, Call, generate
from fast._graphs import Item
from fast._interpret import interpret
from fast._pretend_gpu import pretend
from reference import adam_mini, adams, cautious, cautious_lion, grams, lion

STEPS = 3
SHAPES = [
    (24, 40),
    (40, 24),
    (7, 1100),
    (3000,),
    (24, 40),
    (11,),
]  # 1100: past the longest row that is kept in registers
HYPER = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.5}
RULES = {
    "Grams": (grams, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "Lion": (lion, {"exp_avg": "m"}),
    "CautiousAdamW": (cautious, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "CautiousLion": (cautious_lion, {"exp_avg": "m"}),
    "AdamMini": (adam_mini, {"exp_avg": "m", "exp_avg_sq": "v"}),
    "Adams": (adams, {"exp_avg": "m", "exp_avg_sq": "v", "u": "u", "sigma": "sigma"}),
}


def errors(name: str, seed: int = 0) -> dict[str, float]:
    rule, states = RULES[name]
    draw = np.random.default_rng(seed)
    params = [torch.nn.Parameter(torch.from_numpy(draw.normal(size=s)).float()) for s in SHAPES]
    optimizer = OPTIMIZERS[name](params, **HYPER)
    expected = [p.detach().double().numpy().copy() for p in params]
    memory = [rule.init(w) for w in expected]
    codes: dict[Call, list] = {}

    def flush(batches: dict) -> None:
        for kernel, scalars in batches:
            items = batches[kernel, scalars]
            layout = tuple(tuple((tuple(t.shape), t.stride(), t.dtype) for t in item) for item in items)
            call = Call(kernel, (False,) * len(scalars), layout)
            if call not in codes:
                codes[call] = generate(call)
            assert len(codes[call]) == 1
            values = [torch.tensor(x, dtype=kernel.scalar_dtype) for x in scalars]
            interpret(codes[call][0], [*values, *(t.detach() for item in items for t in item)])

    for _ in range(STEPS):
        batches: dict = {}

        def record(kernel, compile, scalars, items: list[Item], batches=batches) -> None:
            batches.setdefault((kernel, tuple(scalars)), []).extend(items)

        for i, param in enumerate(params):
            grad = draw.normal(size=SHAPES[i])
            param.grad = torch.from_numpy(grad).float()
            hyper: dict[str, Any] = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.5}
            if name == "AdamMini":
                hyper["blocks"] = "rows" if param.ndim > 1 else "tensor"
            if name == "Adams":
                hyper["reseed"] = True
            expected[i], memory[i] = rule.step(expected[i], param.grad.double().numpy(), memory[i], **hyper)
        with mock.patch.object(fast._optimizer, "run", record):
            optimizer.step()
        with torch.no_grad():
            flush(batches)
    worst = {"param": 0.0, **dict.fromkeys(states, 0.0)}
    for param, w, state in zip(params, expected, memory, strict=True):
        found = {"param": (param.detach(), w)}
        found |= {
            ours: (optimizer.state[param][ours], getattr(state, theirs))
            for ours, theirs in states.items()
            if ours in optimizer.state[param]
        }
        for key, (ours, theirs) in found.items():
            a, b = ours.double().numpy().ravel(), np.asarray(theirs, dtype=float).ravel()
            worst[key] = max(worst[key], float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    pretend(90)
    print(json.dumps({name: errors(name) for name in sys.argv[1:] or RULES}))
