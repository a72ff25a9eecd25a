"""Adams, and what only Adams needs: its arctangent, its power iteration, the master weights of half types.

It may import fast._engine and fast._kernels. Begin with `adams`.
"""

from fast.adams.adams import Adams

__all__ = ["Adams"]
