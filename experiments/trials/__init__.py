"""Training by a protocol that was written down first: experiments/protocol.toml.

loop.py        one run of any task by any optimizer: schedule, JSON log, bitwise resume; checkpoint.py: what that needs
optimizers.py  optimizers by name, and which parameters decay
recipes.py     the papers' settings (recipes.toml), on one card or several; gpu.py: a trial for one card in a few minutes
"""
