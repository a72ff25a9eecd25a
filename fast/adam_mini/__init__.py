"""Adam-mini, and what only it needs: parameter groups that carry blocks, and blocks of sharded parameters.

It may import fast.partition, fast._engine and fast._kernels. Begin with `adam_mini`.
"""

from fast.adam_mini.adam_mini import AdamMini

__all__ = ["AdamMini"]
