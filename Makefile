SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench up clean

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
# Read, or compared with, in part only; what they depend on would bring torchvision or old libraries.
ALONE := rapidocr-onnxruntime==1.4.4 open-clip-torch==3.3.0 DALL-E==0.1 dalle-pytorch==1.6.6 \
	axial-positional-embedding==0.3.12 rotary-embedding-torch==0.9.1
export DAGSTER_HOME ?= $(CURDIR)/dagster_home
export PATH := $(BIN):$(PATH)

help: ## print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed ## install into .venv (seconds when nothing changed)

# The stamp comes last, so an interrupted installation is done again.
$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11; name one that is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into .venv (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e . $(ALONE)
	@touch $@

demo: setup ## run the whole graph on a small real web, and say where to look
	@exec $(BIN)/python -m assets.demo

test: check ## check, then every test
	@$(BIN)/python -m pytest

check: setup ## formatting, lint, types, import rules, Dagster definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs
	PYTHONWARNINGS=ignore $(BIN)/dagster definitions validate -w workspace.yaml --log-level warning

bench: setup ## measure against the peers (benchmarks/)
	@$(BIN)/python -m benchmarks

up: setup ## Dagster UI and daemon, and the demonstration's web; Ctrl-C stops all
	@exec $(BIN)/python -m assets.up

clean: ## remove caches and builds; neither .venv nor any data
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
