# pyright: reportMissingImports=false
"""Lion_adv cannot step after load_state_dict

Written to be filed with adv_optm's maintainers as it is; not filed from here. adv_optm 2.5.16.

A run that is saved and resumed raises KeyError: 'actual_state_precision' at its first step: loading replaces the groups by the
saved ones, which were written before that key was set. Expected: nothing is raised.
"""

import torch
from adv_optm import Lion_adv

p = torch.nn.Parameter(torch.ones(4))
p.grad = torch.ones(4)
optimizer = Lion_adv([p], lr=0.1)
optimizer.step()
resumed = Lion_adv([p], lr=0.1)
resumed.load_state_dict(optimizer.state_dict())
resumed.step()
