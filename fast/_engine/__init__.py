"""The torch.optim side of every optimizer: groups, their checks, state dicts, storage in half precision, shards, and `step`.

It may import fast._kernels alone, and knows no single optimizer. Begin with `optimizer`.
"""
