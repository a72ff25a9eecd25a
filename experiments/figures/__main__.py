"""Compares redrawn figures with kept ones: see `experiments.figures.numbers`."""

import sys

from experiments.figures.numbers import main

sys.exit(main())
