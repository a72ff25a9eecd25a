"""An observer of an optimizer's steps, any of torch.optim's form: what it records never changes what it records.

It may import all other rooms; none imports it. Begin with `monitor`.
"""

from fast.monitor.monitor import Monitor

__all__ = ["Monitor"]
