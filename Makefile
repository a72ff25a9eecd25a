# make test       ruff, pyright, pytest, the notebooks under nbval, and the numbers of their figures
# make reproduce  the training runs, all notebooks, slow tests (a slice of every trial's task among them) and claims; says what
#                 differs from what is kept (KEEP=1 keeps it)
# make processors  the notebooks and figures under the switches of other processors (up to an hour)
# make proofs     Rocq reads proofs/*.v; needs Debian's coq, and says so where it is missing
# make lab        JupyterLab at the first notebook
# make site       the course as static pages in build/site, without a network: python3 -m http.server -d build/site
# make gpu        on a machine with a CUDA card, within 7 minutes: tests, times, first steps, into $OUT or build/gpu (no .venv)
# make trials     the training runs of experiments/protocol.toml, which take a night; goes on where it was stopped (ARGS="--only main")
# make trials-gpu  a small model on one CUDA card, within 6 minutes, into $OUT or build/trials-gpu (no .venv); goes on, too
# make matrix     the tests that depend on torch, on the oldest, a middle and the newest torch, each in an environment of its own
# make clean      removes .venv and what was built; runs/ (the logs of training) stays
#
# Each makes .venv by itself; `make PYTHON=python3.12 test` picks the interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export ADAMLAB_FIGURES

.PHONY: test reproduce processors matrix proofs lab site clean
.DELETE_ON_ERROR:

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AdamLab needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@echo "== installing into .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# Two processes of one thread each: the tensors are small, and threads that wait for each other cost more than they bring.
# The suite redraws every figure: into build/, so that it leaves the working tree as it was. nbval compares what the notebooks
# print; the last step compares what they draw.
test: ADAMLAB_FIGURES := $(CURDIR)/build/figures
test: $(INSTALLED)
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ." >&2; exit 1; }
	@echo "== pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@echo "== pytest, notebooks included"
	@rm -rf build/figures
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist loadfile tests notebooks --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-kernel-startup-timeout=120
	@$(BIN)/python -m experiments.figures build/figures figures
	@echo "== the lowest torch"
	@$(BIN)/python tests/house/matrix.py --short

# Draws into build/ and compares; with KEEP=1 into figures/ and notebooks/.
reproduce: ADAMLAB_FIGURES := $(CURDIR)/$(if $(KEEP),,build/reproduced/)figures
reproduce: $(INSTALLED)
	@rm -rf build/reproduced
	@echo "== 1/4 training runs"
	@$(BIN)/python -m experiments.language_model sweep --log runs/language_model
	@$(BIN)/python -m experiments.language_model compare --log runs/language_model
	@echo "== 2/4 notebooks"
	@$(BIN)/python -m experiments.notebooks notebooks $(if $(KEEP),,--to build/reproduced/notebooks)
	@echo "== 3/4 slow tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -n 2 --dist loadfile --timeout=3600 -m slow tests
	@echo "== 4/4 claims"
	@$(BIN)/python -m reference.claims
	@echo
	@echo "figures: $$ADAMLAB_FIGURES ($$(ls $$ADAMLAB_FIGURES/*.svg | wc -l) files), their numbers in data/; training logs: runs/language_model"
	@$(if $(KEEP),,$(BIN)/python -m experiments.figures build/reproduced/figures figures && echo "all as kept in figures/")

processors: $(INSTALLED)
	@$(BIN)/python -m experiments.figures.processors

matrix: $(INSTALLED)
	@$(BIN)/python tests/house/matrix.py

# Needs no .venv. Built beside the sources, Rocq's files would lie among them.
proofs:
	@command -v coqc >/dev/null && command -v coqchk >/dev/null || { echo "make proofs needs coqc and coqchk: apt-get install coq (Debian 12 has 8.16.1)" >&2; exit 1; }
	@rm -rf build/proofs && mkdir -p build/proofs && cp proofs/*.v proofs/_CoqProject proofs/axioms.txt build/proofs
	@set -e; cd build/proofs; for file in $$(grep '\.v$$' _CoqProject); do echo "== $$file"; coqc -q -Q . AdamLab $$file >$$file.out || { cat $$file.out; exit 1; }; done
	@echo "== the theorems' axioms, and the independent checker"
	@cd build/proofs && sed -n '/^Axioms:/d; s/^\([A-Za-z][^ ]*\).*/\1/p' Assumptions.v.out | sort -u | tee axioms.found
	@cd build/proofs && ! grep -vxFf axioms.txt axioms.found || { echo "not among proofs/axioms.txt" >&2; exit 1; }
	@cd build/proofs && coqchk -silent -Q . AdamLab $$(sed -n 's/^\(.*\)\.v$$/-norec AdamLab.\1/p' _CoqProject)
	@echo "$$(grep -c '^Print Assumptions' proofs/Assumptions.v) theorems, checked"

lab: $(INSTALLED)
	@$(BIN)/jupyter lab notebooks/00_start_here.ipynb

# Executes nothing: what the notebooks show is what was committed.
site: $(INSTALLED)
	@PYTHONPATH=.:site OMP_NUM_THREADS=1 $(BIN)/python -m pages build/site

# With a python3 that has torch with CUDA, NumPy and pytest; it installs nothing, and writes nothing into the checkout but
# build/gpu, and that where OUT is not set. `make gpu ARGS=--dry` tries it on a CPU.
.PHONY: gpu
gpu:
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m experiments.gpu $(ARGS)

# Results are written into figures/data/trials after each task, logs into runs/trials.
.PHONY: trials
trials: $(INSTALLED)
	@$(BIN)/python -m experiments.trials run $(ARGS)

# With a python3 that has torch with CUDA, NumPy and transformers, as `make gpu`. `make trials-gpu ARGS=--dry` tries it on a CPU.
.PHONY: trials-gpu
trials-gpu:
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m experiments.trials gpu $(ARGS)

clean:
	rm -rf .venv .venv-matrix build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
