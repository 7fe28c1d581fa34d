PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all gpu-check lint format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

demo: .venv/installed ## train the default on real digits, draw some, write a report (minutes)
	$(BIN)/genlab train
	run=$$($(BIN)/genlab train | sed -n 's/^this run is done: //p') && \
	$(BIN)/genlab sample run=$$run n=200 name=demo animate=true interpolate=true && \
	$(BIN)/python scripts/classify_digits.py $$run/samples/demo && \
	$(BIN)/genlab report run=$$run

test: .venv/installed ## everything that is quick
	GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-all: .venv/installed ## also the slow tests; those marked gpu run where there is one
	$(BIN)/python -m pytest

gpu-check: ## tests, speed and attention on a GPU, in nine minutes; again goes on (ARGS=--rehearse: on the CPU)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) scripts/gpu_check.py $(ARGS)

lint: .venv/installed ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed ## ruff, in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## the environment and what tools left; runs in outputs/ stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genlab needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev,sweep,track,ode]"
	touch $@
