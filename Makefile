# Every target sets up what it needs on a machine with Python 3.11 or later; nothing else has to be run first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# CI wants the log to say more, a person wants it to say less.
PYTEST_ARGS ?= $(if $(CI),--durations=10,-q)
# What pip installs of pyproject.toml's extras.
EXTRAS ?= dev,bench
ROUNDS ?= 5
RESULTS := benchmarks/results
CODE := trio_ws tests $(wildcard examples benchmarks)

# The tests start hundreds of interpreters, and without bytecode each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs conformance bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

$(STAMP): pyproject.toml hatch_build.py trio_ws/protocol/_speedups.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "trio_ws needs Python 3.11 or later; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

install: $(STAMP)  ## make the virtual environment only

demo: $(STAMP)  ## run a server and a few clients, and say what happens
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP)  ## run the linters, the type checkers, and the tests with coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: $(STAMP)  ## build the documentation; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs .cache/docs
	@echo "open .cache/docs/index.html"

conformance: $(STAMP)  ## run all of the Autobahn test suite, in both roles
	$(BIN)/python -m tests.conformance.run --groups all --role both

bench: $(STAMP)  ## measure against other libraries, and draw it (ROUNDS=5; half an hour)
	$(BIN)/python -m benchmarks.run --rounds $(ROUNDS) --json $(RESULTS)/figures.json
	$(BIN)/python -m benchmarks.growth --json $(RESULTS)/growth.json
	$(BIN)/python -m benchmarks.fairness --json $(RESULTS)/fairness.json
	$(BIN)/python -m benchmarks.report $(RESULTS)/*.json --into benchmarks/README.md
	$(BIN)/python -m benchmarks.plot $(RESULTS)/figures.json $(RESULTS)/growth.json --into docs/plots

clean:  ## remove what the other targets have made
	rm -rf $(VENV) .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
