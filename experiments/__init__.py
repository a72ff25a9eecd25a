"""Real training: data, models, the loop and sweeps; `python -m experiments.<name> --help`."""
