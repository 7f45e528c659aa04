# Every target installs what it needs first: .venv from the pinned requirements of constraints.txt. Compiling all modules
# would be more than half of that time; most are never imported, and the others are compiled then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A worker for each core. One that is done takes half of another's remaining tests, so that those of one file, which share
# fixtures and what is compiled, mostly stay together.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal --durations 20

.PHONY: help demo test test-slow test-all lint types bench validate mutants clean
help:
	@echo "make demo      train a network on real digits, set it beside the model, write report/"
	@echo "make test      the fast tests       make test-slow  the slow tests    make test-all  both"
	@echo "               on every core; WORKERS=2 on two, WORKERS=0 in one process"
	@echo "make lint      ruff                 make types      mypy"
	@echo "make mutants   changes the code at COUNT random places (SEED), and prints the share that the tests notice"
	@echo "make bench     the benchmarks       make validate   the claims, at smoke scale"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('rmtland needs Python 3.11 or newer; run make PYTHON=python3.11' if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".[nets,cluster,dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/rmtland compare --out report

test: $(READY)
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

validate: $(READY)
	$(BIN)/python -m validation run --scale smoke --jobs -1
	$(BIN)/python -m validation report

SEED ?= 0
COUNT ?= 100
mutants: $(READY)
	$(BIN)/python -m tools.mutants --seed $(SEED) --count $(COUNT)

clean:
	rm -rf $(VENV) report results .mypy_cache .ruff_cache .pytest_cache
