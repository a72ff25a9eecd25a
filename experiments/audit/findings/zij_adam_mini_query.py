# pyright: reportMissingImports=false
"""AdamMini fails on query and key projections

Written to be filed with zij's maintainers as it is; not filed from here. zij 0.1.1.

`step_attn_proj` writes `(1 / (h * bias_correction1)).view(head, 1).mul_(m)`: an in-place product cannot take the larger shape of
m, so that any `q_proj.weight`, `k_proj.weight`, `wq.weight` or `wk.weight` raises "output with shape [2, 1] doesn't match the
broadcast shape [2, 32]". `.mul(m)` is right, and is what pytorch_optimizer, from which it was adapted, has by now.
"""

import torch
import zij

model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8, bias=False)})
optimizer = zij.AdamMini(model, lr=0.01, num_embeds=8, num_heads=2)
model["q_proj"](torch.ones(1, 8)).sum().backward()
optimizer.step()
