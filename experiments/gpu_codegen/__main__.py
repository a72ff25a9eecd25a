"""`python -m experiments.gpu_codegen`."""

import sys

from experiments.gpu_codegen import main

sys.exit(main())
