# Everything happens in .venv here; nothing else on the machine is changed. `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
VENV_OLDEST := .venv-oldest
RUN := $(VENV)/bin/python

# Test processes: tests/conftest.py says what auto means and divides the cores among them.
WORKERS ?= auto
PYTEST_ARGS ?=
PYTEST = -m pytest -q --numprocesses $(WORKERS) --dist worksteal --durations 10 $(PYTEST_ARGS)

.PHONY: help install demo test test-oldest lint format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16
	@echo
	@echo "  PYTHON=$(PYTHON)  WORKERS=$(WORKERS)  PYTEST_ARGS=$(PYTEST_ARGS)    (e.g. make test PYTEST_ARGS=\"-m 'not slow' tests/data\")"

install: $(VENV)/.installed ## the tested versions (constraints.txt) into .venv; repeated only when they change

demo: install ## train a small model on handwritten digits and evaluate it
	$(RUN) -m soda_fast train configs/demo_digits.yaml
	$(RUN) -m soda_fast evaluate runs/demo_digits --baselines untrained pixels

test: install ## all tests; those marked gpu need a CUDA device and are skipped without one
	@$(RUN) $(PYTEST)

test-oldest: $(VENV_OLDEST)/.installed ## all tests on the oldest allowed versions (constraints-oldest.txt), in .venv-oldest
	@$(VENV_OLDEST)/bin/python $(PYTEST)

lint: install ## ruff (rules and format) and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: install ## let ruff put the code in order
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove both environments, caches and build folders; runs/ and data/ stay
	rm -rf $(VENV) $(VENV_OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find soda_fast kernels benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call make_venv,FOLDER,CONSTRAINTS). pip says little for minutes; of what it says, the large downloads are shown.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "soda_fast needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' lacks the venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing the packages of $(2) into $(1) (about 7 GB on Linux; the first time takes minutes)"
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c $(2) -e '.[dev]' \
	  | { grep --line-buffered -E '^ +(Downloading|Using cached) .*\(([0-9]{2,}\.[0-9]+ MB|[0-9.]+ GB)\)|^ERROR' || true; }
	@touch $@
	@echo "Installed: $$($(1)/bin/python -c 'import importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in ("soda-fast", "torch", "torchvision", "numpy")), sep=", ")')"
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call make_venv,$(VENV),constraints.txt)

$(VENV_OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(call make_venv,$(VENV_OLDEST),constraints-oldest.txt)
