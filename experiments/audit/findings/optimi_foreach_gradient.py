# pyright: reportMissingImports=false
"""Adam and AdamW with foreach=True overwrite the gradients

Written to be filed with warner-benjamin/optimi as it is; not filed from here. torch-optimi 0.3.3.

The foreach step uses the list of gradients as its buffer for the denominators: after the step `p.grad` holds |g| + eps on the
first step, and the square root of the average later. Clipping that is logged after the step, or a second optimizer over the same
parameters, reads those. The loop (foreach=False) leaves the gradients alone. Expected: tensor([-1., 2.]).
"""

import warnings

import torch
from optimi import AdamW

warnings.simplefilter("ignore")  # that foreach is deprecated
p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([-1.0, 2.0])
AdamW([p], lr=0.1, foreach=True, triton=False).step()
print(p.grad)
