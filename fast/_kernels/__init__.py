"""How a pure update of tensors becomes code: by torch.compile on a CPU, by Triton on a GPU, or one operation at a time.

It imports no other room and knows no optimizer. Begin with `update`; go on with `cpu` and `direct`, or with the folder `gpu`.
"""
