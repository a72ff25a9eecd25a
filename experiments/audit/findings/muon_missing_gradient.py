# pyright: reportMissingImports=false
"""SingleDeviceMuonWithAuxAdam: a parameter without a gradient is a TypeError

Written to be filed with KellerJordan/Muon as it is; not filed from here. muon-optimizer 0.1.0.

torch's optimizers pass over a parameter whose `.grad` is None: an unused branch, a frozen layer, a head that this batch did not
reach. The Adam part of `SingleDeviceMuonWithAuxAdam` calls `buf1.lerp_(None, ...)`. A line `if p.grad is None: continue` before
the state is made would do; the distributed class sets missing gradients to zero, which also moves them by momentum and decay.
"""

import torch
from muon import SingleDeviceMuonWithAuxAdam

used, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
optimizer = SingleDeviceMuonWithAuxAdam([{"params": [used, unused], "use_muon": False}])
used.grad = torch.ones(3)
optimizer.step()
