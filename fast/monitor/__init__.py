"""Watches the steps of any torch.optim optimizer, without changing them.

It may import all other rooms; none imports it. Begin with `monitor`.
"""

from fast.monitor.monitor import Monitor

__all__ = ["Monitor"]
