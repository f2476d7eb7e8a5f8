# Everything runs in .venv, which is made from the lock file and remade when that changes.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SHELL := /bin/bash
ARGS ?=
# Two processes, each with a stack of its own: most tests wait for real parts. A file's tests stay
# together, for they share what they set up.
PYTEST := $(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast check clean system-packages

help:  ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv with everything in it.

# uv where there is one: it is faster, and brings Python 3.11 where that is missing. Else pip.
# Bytecode is compiled here, not by a dozen processes that start at once.
$(STAMP): requirements.lock pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --seed --python 3.11 $(VENV) && \
	  uv pip install --python $(PYTHON) --compile-bytecode --require-hashes -r requirements.lock && \
	  uv pip install --python $(PYTHON) --quiet --no-deps --no-build-isolation -e .; \
	elif command -v python3.11 >/dev/null; then \
	  python3.11 -m venv $(VENV) && \
	  $(PYTHON) -m pip install --progress-bar off --no-deps --require-hashes -r requirements.lock && \
	  $(PYTHON) -m pip install --quiet --no-deps --no-build-isolation -e .; \
	else \
	  echo "Python 3.11 is needed: install python3.11 with its venv module, or uv." >&2; exit 1; \
	fi
	@touch $@

demo: install  ## Run the whole flow before your eyes; ARGS="--seed 2" changes the run.
	@$(VENV)/bin/penstock demo $(ARGS)

check: install  ## Lint, format, types, borders.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: check system-packages  ## Check, then run every test.
	$(PYTEST)

test-fast: install  ## Run the tests that take seconds.
	$(PYTEST) -m "not slow"

# The stack fetches what it runs itself; tests also want a browser.
system-packages:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  command -v google-chrome >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else \
	  echo "No Chromium is installed here: the tests that open a browser are skipped." >&2; \
	fi

clean:  ## Stop the stack and remove what was made here, the environment included.
	@if [ -x $(VENV)/bin/penstock ]; then $(VENV)/bin/penstock down; fi
	rm -rf $(VENV) .penstock .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
