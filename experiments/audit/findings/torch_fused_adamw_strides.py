# pyright: reportMissingImports=false
"""torch.optim.AdamW(fused=True) on the CPU: a gradient with other strides than its parameter is read in the wrong order

Written to be filed with pytorch/pytorch as it is; not filed from here. torch 2.12.1 and 2.13.0, CPU.

The fused CPU kernel walks gradient and parameter by memory, not by index. A transposed gradient, which autograd may hand over (for
`(x @ w.t())` and the like), is silently applied to other entries. `foreach=True` and the plain loop are right. Expected: 0.0.
"""

import torch

p, q = (torch.nn.Parameter(torch.zeros(3, 2)) for _ in range(2))
g = torch.arange(6.0).reshape(3, 2) - 2.5
p.grad, q.grad = g, g.t().contiguous().t()  # the same numbers
torch.optim.AdamW([p], lr=0.1, fused=True).step()
torch.optim.AdamW([q], lr=0.1, fused=True).step()
print("largest difference:", (p - q).abs().max().item())
