# make test, make demo, make docs: each sets up what it needs in .venv and goes.
# Variables: PYTHON (which interpreter makes the environment), VENV (where), SLOW=1 (slow tests too).

PYTHON ?= python3
VENV ?= .venv
EXTRAS := train,lora,export,serve,rtx,bench,docs,dev
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help test demo docs lint clean

help:
	@echo 'make test    lint, types, tests and a tiny run of every benchmark (SLOW=1: slow tests too)'
	@echo 'make demo    train the toy model, score it, export it, and write runs/demo/index.html'
	@echo 'make docs    the API reference, from the docstrings: build/docs/index.html'
	@echo 'make lint    formatting, lint and types only'
	@echo 'make clean   remove the environment, caches and build output; runs/ stays'

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard mmfs/kernels/*.cpp mmfs/kernels/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is not Python 3.11 or newer. Name one that is, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' comes without venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo '== set up $(VENV) (a few minutes; only when pyproject.toml, constraints.txt or the CPU kernel change)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

lint: $(STAMP)
	@echo '== format, lint, types'
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted; $(BIN)/ruff format does it' >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

# One thread a worker: two workers with two threads each would fight for two cores.
# The tests come last, so that the last line of `make test` is theirs.
test: export OMP_NUM_THREADS := 1
test: lint
	@echo '== every benchmark once, tiny'
	@$(BIN)/python -m pytest bench --smoke --quiet
	@echo '== tests'
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(if $(SLOW),,-m 'not slow')

demo: $(STAMP)
	@echo '== demo: train, score, export; then open runs/demo/index.html'
	@$(BIN)/python -m trainer.demo

docs: $(STAMP)
	@$(BIN)/python docs/reference.py build/docs
	@echo '== open build/docs/index.html'

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
