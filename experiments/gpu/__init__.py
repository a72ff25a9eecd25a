"""One command for the day with a GPU: `make gpu`, or `python -m experiments.gpu` (`--help` for the rest)."""
