# pyright: reportMissingImports=false
"""Grams and others count steps for the group, so the first step of a late parameter is too short

Written to be filed with kozistr/pytorch_optimizer as it is; not filed from here. pytorch-optimizer 4.1.0.

`group['step']` goes on while a parameter has no gradient. When its first gradient comes (an unfrozen layer, a rare branch), its
averages are new and the bias corrections those of an old run: m = 0.1 g, v = 0.001 g^2, both taken for finished averages if the
run is long. torch.optim keeps a count in each parameter's state. Expected: two equal numbers, about 0.1; after 20 steps the late
one is 0.08, after five 0.05, and from some hundred steps on about 0.1 sqrt(0.1^2/0.001) = 0.3.
"""

import torch
from pytorch_optimizer import Grams

early, late, fresh = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
optimizer = Grams([early, late], lr=0.1)
for _ in range(6):
    early.grad = torch.ones(1)
    optimizer.step()
late.grad = fresh.grad = torch.ones(1)
optimizer.step()
Grams([fresh], lr=0.1).step()
print("first step, late and at once:", -late.item(), -fresh.item())
