# pyright: reportMissingImports=false
"""maximize=True negates the caller's gradients in place

Written to be filed with kozistr/pytorch_optimizer as it is; not filed from here. pytorch-optimizer 4.1.0.

`maximize_gradient` calls `grad.neg_()` on `p.grad` itself (the foreach path `_foreach_neg_`). Whoever steps twice with the same
gradients, accumulates into them, or logs them after the step has them with the sign turned. torch.optim negates a copy.
Expected: tensor([1., 2.]).
"""

import torch
from pytorch_optimizer import Lion

p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([1.0, 2.0])
Lion([p], lr=0.1, maximize=True).step()
print(p.grad)
