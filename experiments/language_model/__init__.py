"""A small Llama trained from scratch on real text, the same way with every optimizer.

    python -m experiments.language_model train --optimizer grams --lr 3e-3
    python -m experiments.language_model sweep
    python -m experiments.language_model compare

    sources.py     where text comes from: the standard library, a folder, a hub data set; what is held out
    tokens.py      a byte-level BPE trained on the training side only, the tokenised corpus and its cache
    model.py       transformers' LlamaForCausalLM from a config; held-out perplexity and bits per byte
    optimizers.py  optimizers by name, and which parameters decay
    train.py       one run: schedule, JSON log, bitwise resume; checkpoint.py: what a resume needs
    report.py      what a sweep found: table, figures/language_model.svg and figures/data/language_model.json
    compare.py     every optimizer once at its best of a few rates, beside the released packages at the same rate
    side_by_side.py    what that found: table, figures/10_training_runs.svg and figures/data/10_training_runs.json

Importing this package loads neither torch nor transformers.
"""
