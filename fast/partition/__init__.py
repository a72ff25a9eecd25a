"""Adam-mini's blocks, read off a model: which entries share one second moment.

It imports nothing else of `fast`. Begin with `partition`, which asks `structure` of a module and `names` of named parameters.
"""

from fast.partition.blocks import Blocks
from fast.partition.partition import Entry, Partition, partition

__all__ = ["Blocks", "Entry", "Partition", "partition"]
