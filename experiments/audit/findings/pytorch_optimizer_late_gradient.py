# pyright: reportMissingImports=false
"""Grams counts steps for the group, so the first step of a late parameter has another length

Written to be filed with kozistr/pytorch_optimizer as it is; not filed from here. pytorch-optimizer 4.1.0.

`group['step']` goes on while a parameter has no gradient. When its first gradient comes (an unfrozen layer, a rare branch), its
averages are new and the bias corrections those of an old run. The first step is half of lr after five steps and after twenty, and
0.1 / sqrt(0.001) = 3.2 lr in a long run. torch.optim keeps a count in each parameter's state. Expected: two equal numbers.
"""

import torch
from pytorch_optimizer import Grams

early, late, fresh = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
optimizer, other = Grams([early, late], lr=0.1), Grams([fresh], lr=0.1)
for _ in range(6):
    early.grad = torch.ones(1)
    optimizer.step()
late.grad = fresh.grad = torch.ones(1)
_ = optimizer.step(), other.step()
print("first step, late and at once:", -late.item(), -fresh.item())
