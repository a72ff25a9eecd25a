# pyright: reportMissingImports=false
"""A copied or pickled Lion cannot step

Written to be filed with lucidrains/lion-pytorch as it is; not filed from here. lion-pytorch 0.2.5.

`torch.optim.Optimizer.__getstate__` keeps defaults, state and param_groups alone: attributes of an instance (`decoupled_wd`,
`_init_lr`, `update_fn`) are lost in `copy.deepcopy` and `pickle`, and the next step raises AttributeError. What a step needs can
stand in `defaults`, as `betas` does, or be added in `__getstate__`.
"""

import copy

import torch
from lion_pytorch import Lion

p = torch.nn.Parameter(torch.ones(2))
q, optimizer = copy.deepcopy((p, Lion([p], lr=0.1)))
q.grad = torch.ones(2)
optimizer.step()
