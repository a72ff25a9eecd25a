# pyright: reportMissingImports=false
"""Grams overwrites the gradients, and a closure cannot call backward

Written to be filed with Gunale0926/Grams as it is; not filed from here. grams-pytorch 0.0.2.

`grad.sign_().mul_(exp_avg.abs())` works on `p.grad` itself, which after the step holds sign(g) |m|. And `step` runs the closure
under `torch.no_grad()`, where `loss.backward()` raises "element 0 of tensors does not require grad". `grad.sign()` and
`with torch.enable_grad(): loss = closure()` mend both. Expected: tensor([-1., 2.]).
"""

import torch
from grams import Grams

p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([-1.0, 2.0])
Grams([p], lr=0.1).step()
print(p.grad)
