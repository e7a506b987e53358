# Two commands do everything on a fresh machine with Python 3.11: `make score` and `make test`.
PYTHON ?= python3.11
# uv installs in about a minute and pip in five; without uv, pip is used by itself: make setup INSTALLER=pip
INSTALLER ?= uv
# Processes that run tests.
JOBS ?= auto
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(PYTHON) tools/install.py --environment $(VENV) --installer $(INSTALLER)
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
REQUIREMENTS := pyproject.toml constraints.txt tools/install.py

# Each process of a test run, and each worker of Ray, would compile the package and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup cluster score faithfulness audit test test-fast test-all sweep sweep-table check structure bench bench-gpu docs \
	dist clean

help:
	@echo "make setup     install what a run needs into $(VENV); INSTALLER=pip does it without uv"
	@echo "make cluster   the same for a node of a cluster, with access to S3"
	@echo "make score     rank the layers of SmolLM2-135M on 256 SciQ questions"
	@echo "make faithfulness  see what forecasts of electricity prices survive"
	@echo "make audit     audit SmolLM2 and a forecaster, and compare with earlier nights"
	@echo "make test      the tests of every change; make test-all adds the slow ones"
	@echo "make test-fast  the quick tests, without Ray and without a browser, while you work"
	@echo "make sweep     try every model type of transformers, and list differences from docs/models.md"
	@echo "make check     ruff, mypy, import-linter"
	@echo "make structure  figures of the source: share of pipelines, cycles, names, lengths of functions"
	@echo "make bench     measure speed and memory against the baselines"
	@echo "make bench-gpu  measure on a GPU: the probe, and each job against a plain loop"
	@echo "make docs      write the pages that follow from the code, and build the site into site/"
	@echo "make dist      build a wheel and an sdist into dist/"
	@echo "make clean     remove $(VENV) and caches; runs/ stays"

$(RUNTIME): $(REQUIREMENTS)
	$(INSTALL)
	@touch $@

$(DEV): $(REQUIREMENTS)
	$(INSTALL) --extra dev
	@touch $(RUNTIME) $@

setup: $(RUNTIME)

cluster: $(REQUIREMENTS)
	$(INSTALL) --extra s3
	@touch $(RUNTIME)

score: $(RUNTIME)
	$(BIN)/python jobs/score.py

faithfulness: $(RUNTIME)
	$(BIN)/python jobs/faithfulness.py --fit.epochs 5 --fit.faithful_epochs 3

audit: $(RUNTIME)
	$(BIN)/python jobs/audit.py

test: $(DEV)
	$(PYTEST)

test-fast: $(DEV)
	$(PYTEST) -m 'not slow and not long and not ray'

test-all: $(DEV)
	$(PYTEST) -m ''

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

bench-gpu: $(RUNTIME)
	$(BIN)/python benchmarks/gpu.py --rounds 20
	for case in 8b 1b 135m sciq; do $(BIN)/python benchmarks/gpu_job.py --case $$case || exit; done
	$(BIN)/python benchmarks/generation.py --device cuda --tokens 16384
	$(BIN)/python benchmarks/search.py --devices gpu cpu --trials 100
	$(BIN)/python benchmarks/training.py --gpu --plain --steps 30
	$(BIN)/python benchmarks/faithful.py epf_fr --horizons 96 --batches 40 --device cuda
	$(BIN)/python benchmarks/seeds.py epf_fr --horizon 96 --device cuda

docs: $(DEV)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

dist: $(DEV)
	rm -rf dist
	$(BIN)/python -m build --installer $(INSTALLER) --outdir dist .

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache platform/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
