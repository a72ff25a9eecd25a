"""What `fast.Monitor` costs on this machine: python -m experiments.bench.monitor

Trains a small Transformer on random tokens, every second step watched, and compares the medians of the watched and the
other steps: the step alone (with other memory touched in between, as forward and backward do) and the whole iteration.
Measures accuracy as well: how far the sampled numbers are from those of all entries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import fast

VOCABULARY, WIDTH, LAYERS = 4000, 256, 5
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "Grams": lambda model: fast.Grams(model.parameters()),
    "Lion": lambda model: fast.Lion(model.parameters()),
    "CautiousAdamW": lambda model: fast.CautiousAdamW(model.parameters()),
    "AdamMini": lambda model: fast.AdamMini(model),
    "Adams": lambda model: fast.Adams(model.parameters()),
    "fused AdamW": lambda model: torch.optim.AdamW(model.parameters(), fused=True),
}


class Model(nn.Module):
    """Embedding, Transformer layers, head: 6 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layers = [nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True) for _ in range(LAYERS)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(tokens)))


def measure(name: str, steps: int, sample: int | None) -> dict[str, float]:
    """Medians in milliseconds: of the step and of the whole iteration, without and with the monitor."""
    torch.manual_seed(0)
    model = Model()
    optimizer = OPTIMIZERS[name](model)
    times: dict[str, list[float]] = {"step": [], "step watched": [], "iteration": [], "iteration watched": []}
    with fast.Monitor(optimizer, every=2, sample=sample) as monitor:
        for i in range(-4, steps):  # four to compile in
            tokens = torch.randint(VOCABULARY, (8, 65))
            begin = time.perf_counter()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            middle = time.perf_counter()
            recorded = len(monitor.records)
            optimizer.step()
            end = time.perf_counter()
            suffix = " watched" if len(monitor.records) > recorded else ""
            if i >= 0:
                times["step" + suffix].append(1e3 * (end - middle))
                times["iteration" + suffix].append(1e3 * (end - begin))
    return {key: median(found) for key, found in times.items()}


def accuracy(steps: int) -> dict[str, float]:
    """Median error of a sampled number relative to that of all entries, in a Grams run."""
    torch.manual_seed(0)
    model = Model()
    optimizer = fast.Grams(model.parameters())
    sampled, exact = fast.Monitor(optimizer), fast.Monitor(optimizer, sample=None)
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, (8, 65))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    pairs: Any = list(zip(sampled.records, exact.records, strict=True))
    return {key: median(abs(a[key] / b[key] - 1) if b[key] else 0.0 for a, b in pairs) for key in exact.records[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="iterations for each optimizer (half of them watched)")
    parser.add_argument("--all", action="store_true", help="take all entries, not a sample")
    given = parser.parse_args()
    model = Model()
    count, tensors = sum(p.numel() for p in model.parameters()), len(list(model.parameters()))
    print(f"{count / 1e6:.1f} million parameters in {tensors} tensors, 512 tokens an iteration; medians in ms")
    print(f"{'':15} {'step':>8} {'watched':>8} {'':>6} {'iteration':>10} {'more':>6}")
    for name in OPTIMIZERS:
        found = measure(name, given.steps, None if given.all else 256)
        more = found["step watched"] - found["step"]
        print(
            f"{name:15} {found['step']:8.2f} {found['step watched']:8.2f} {more / found['step']:+6.0%}"
            f" {found['iteration']:10.1f} {more / found['iteration']:+6.1%}",
            flush=True,
        )
    print("median relative error of sampling (Grams):")
    print("  " + ", ".join(f"{key} {error:.1%}" for key, error in accuracy(10).items() if key != "step"))


if __name__ == "__main__":
    main()
