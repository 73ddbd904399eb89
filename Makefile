# Every target sets up what it needs on a machine with Python 3.11 or later; nothing else has to be run first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# CI wants the log to say more, a person wants it to say less.
PYTEST_ARGS ?= $(if $(CI),--durations=10,-q)
# Each target installs the extras of pyproject.toml that it needs, into one environment.
TEST_EXTRAS ?= test
CHECK_EXTRAS ?= dev,bench
# make test leaves out what is slow, and says so, and tries half as many examples of properties; make check runs all. SLOW=1 makes `make test` run all, too.
SLOW ?=
# Tests run in one process for each processor, four at most, or with PROCESSES=0 all in one. The slow ones always run in
# one, because many of them start processes and measure them.
PROCESSES ?= auto
PARALLEL := --numprocesses $(PROCESSES) --maxprocesses 4 --dist worksteal
ROUNDS ?= 5
RESULTS := benchmarks/results
# Pages that have tables of the benchmarks.
TABLES := README.md benchmarks/README.md docs/speed.md docs/topics/performance.md
CODE := trio_ws tests $(wildcard examples benchmarks)

# The tests start hundreds of interpreters, and without bytecode each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs conformance bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

# A pip that is there already installs the next one in a third of the time that venv takes for it. venv does it where there
# is none, or where it cannot install into another environment.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "trio_ws needs Python 3.11 or later; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile --disable-pip-version-check pip 2>/dev/null \
		|| $(PYTHON) -m venv $(VENV)

NEEDS := pyproject.toml hatch_build.py trio_ws/protocol/_speedups.c $(wildcard trio_ws/protocol/speedups/*.h)
# Installs the package, with extras or without, and says whether the C extension was built. Python compiles the modules
# that it imports, which is quicker than compiling all of them here and in the environment of the build.
define install
	PIP_NO_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(1)'
	@$(BIN)/python -c 'from trio_ws.protocol.masking import IMPLEMENTATION; print("trio_ws is installed,", \
		"with its C extension" if IMPLEMENTATION == "c" else "without its C extension: no C compiler, or no headers of Python")'
	@touch $@
endef

$(VENV)/.installed: $(NEEDS) | $(VENV)/bin/pip
	$(call install,)

$(VENV)/.installed-%: $(NEEDS) | $(VENV)/bin/pip
	$(call install,[$*])

install: $(VENV)/.installed-$(CHECK_EXTRAS)  ## make the virtual environment only, with all extras

demo: $(VENV)/.installed  ## run a server and a few clients, and say what happens
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-$(TEST_EXTRAS)  ## run the tests in three minutes, without the slow ones (SLOW=1: with them)
	$(if $(SLOW),,TRIO_WS_TEST_EXAMPLES=$${TRIO_WS_TEST_EXAMPLES:-0.5}) \
		$(BIN)/python -m pytest $(if $(SLOW),,$(PARALLEL) -m 'not slow') $(PYTEST_ARGS)

check: $(VENV)/.installed-$(CHECK_EXTRAS)  ## run the linters, the type checkers, and all tests with coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings
	$(BIN)/coverage erase
	@failed=0; set -x; \
	$(BIN)/coverage run -m pytest $(PARALLEL) -m 'not slow' $(PYTEST_ARGS) || failed=1; \
	$(BIN)/coverage run -m pytest -m slow $(PYTEST_ARGS) || failed=1; \
	exit $$failed  # after all, so that one run shows everything that fails
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: $(VENV)/.installed-docs  ## build the documentation; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs .cache/docs
	@echo "open .cache/docs/index.html"

conformance: $(VENV)/.installed-$(TEST_EXTRAS)  ## run all of the Autobahn test suite, in both roles
	$(BIN)/python -m tests.conformance.run --groups all --role both

bench: $(VENV)/.installed-bench  ## measure against other libraries, and draw it (ROUNDS=5; half an hour)
	$(BIN)/python -m benchmarks.run --rounds $(ROUNDS) --json $(RESULTS)/figures.json
	$(BIN)/python -m benchmarks.growth --json $(RESULTS)/growth.json
	$(BIN)/python -m benchmarks.fairness --json $(RESULTS)/fairness.json
	$(BIN)/python -m benchmarks.processes --json $(RESULTS)/processes.json
	$(BIN)/python -m benchmarks.report $(RESULTS)/*.json --into $(TABLES)
	$(BIN)/python -m benchmarks.plot $(RESULTS)/figures.json $(RESULTS)/growth.json --into docs/plots

clean:  ## remove what the other targets have made
	rm -rf $(VENV) .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
