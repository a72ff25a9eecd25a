"""How a pure update becomes a GPU's code: `values` reads it, `code` writes Triton for it, `launch` runs that on many tensors.

It may import fast._kernels alone, and nothing here knows an optimizer. Begin with `launch`.
"""
