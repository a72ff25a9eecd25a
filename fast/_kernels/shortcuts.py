"""Three ways of spending less of Python's time in a step. None changes a number.

Without each of them every optimizer passes tests/engine/test_versions.py.

    DIRECT  Inductor's code for a CPU is called past Dynamo's guards                  fast/_kernels/direct.py
    PACKS   small tensors on a CPU are updated side by side, in one call              fast/_kernels/packs.py
    VIEWS   the views of a parameter and of its state last from one step to the next  fast/_kernels/tensors.py

`python -m experiments.bench --without DIRECT` measures what one brings. Each is read where a step begins to need it.
"""

DIRECT = PACKS = VIEWS = True
