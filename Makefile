# Everything runs in .venv, which the first target makes. Windows without make: CONTRIBUTING.md has the same by hand.
.DEFAULT_GOAL := help
.PHONY: help quickstart test check lint fix docs reproduce-roberta clean

# The first that runs: a shim of pyenv may be there without its Python.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "" 2> /dev/null && echo $$p && break; done)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BIN := .venv/bin
READY := .venv/.ready
TORCH ?= torch==2.13.0
# The tests share the cores: one torch thread each runs more of them at a time than two would.
WORKERS ?= $(shell $(BIN)/python -c "import os; print(min(4, os.cpu_count() or 1))")
PYTEST := $(BIN)/python -m pytest -q

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

quickstart: $(READY) ## train, judge and classify on the embedded default: a few minutes
	@$(BIN)/textlora quickstart --out runs/quickstart --overwrite

test: $(READY) ## every test but the long campaigns: 15 minutes at most
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(WORKERS) --dist worksteal -m "not campaign"

check: $(READY) lint ## lint, types, arrows, fast tests: 2 minutes at most
	@OMP_NUM_THREADS=1 $(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow and not campaign"

lint: $(READY) ## format, lint, types, arrows
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright && $(BIN)/lint-imports

fix: $(READY) ## format and mend what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

reproduce-roberta: $(READY) ## our recipe and both seeds' on AG News from the hub: needs a network, better a GPU
	@for recipe in roberta-best roberta-qv-r10 roberta-selective-r36; do \
		$(BIN)/textlora train --recipe $$recipe --data ag_news --out runs/$$recipe && \
		$(BIN)/textlora evaluate runs/$$recipe --data ag_news --split test || exit 1; done
	@$(BIN)/textlora compare runs/roberta-best runs/roberta-qv-r10 runs/roberta-selective-r36 --data ag_news --split test

docs: $(READY) ## write the generated parts of the documentation again
	@$(BIN)/python docs/generate.py

clean: ## remove the environment and caches
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist

# torch first and pinned: a later resolver step must not replace a CPU build by gigabytes of CUDA.
$(READY): pyproject.toml
	@echo "setting up .venv (a few minutes the first time)"
	@test ! -d .venv || $(BIN)/python -m pip --version > /dev/null 2>&1 || { echo "removing .venv: it has no pip"; rm -rf .venv; }
	@test -d .venv || env $(PYTHON) -c "$(NEW_ENOUGH)" 2> /dev/null || { \
		echo "textlora needs Python 3.11 or newer, found $$(env $(PYTHON) --version 2>&1 | grep Python || echo none): make PYTHON=/path/to/python3.11"; exit 1; }
	@test -d .venv || env $(PYTHON) -m venv .venv > /dev/null && $(BIN)/python -m pip --version > /dev/null 2>&1 || { rm -rf .venv; \
		echo "$(PYTHON) made a .venv without pip, now removed: install $(notdir $(PYTHON))-venv (Debian, Ubuntu) and make again"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)" 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[embedded,dev]" "$(TORCH)" 2> .venv/pip.log || { cat .venv/pip.log; exit 1; }
	@touch $(READY)
