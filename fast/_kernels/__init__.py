"""How a pure update of tensors becomes code: by torch.compile on a CPU, by Triton on a GPU, or one operation at a time.

It imports no other room and knows no optimizer. Begin with `update`; for a CPU go on with `direct`, for a GPU with `launch`.
"""
