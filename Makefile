# All commands of the project. Each target sets up .venv by itself, once.

OUTPUT ?= runs/demo
METHOD ?= parallel_autoregressive
ARGS ?=
PORT ?= 8000
CHECKPOINT ?= demo
STORAGE ?=
UV_VERSION := 0.13.8
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
READY := .venv/.ready
PEERS := .venv/.peers
DOCS := .venv/.docs
AUDIT := .venv/.audit
RUN := .venv/bin/python
# One process more than cores, since tests with the Ray cluster wait for Ray's processes.
PARALLEL = --numprocesses=$(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8))) --dist=loadgroup --no-loadscope-reorder
# These tests start programs with their own processes: two at once, whatever the number of cores.
IN_PAIRS := --numprocesses=2 --dist=loadgroup
FAST := not faults and not chaos and not gpu

.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # else programs that tests start would compile the package each time
.PHONY: help demo test faults chaos lint format docs serve ui bench bench-all audit doctor setup

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(READY) ## run the whole job on this machine, from a URL table to an HTTP answer (METHOD=iterative3: the paper's)
	$(RUN) pipelines/demo.py demo output=$(OUTPUT) method=$(METHOD)

test: $(READY) ## run the fast tests: 3 to 4 minutes on two cores (ARGS="-k captions" goes to pytest)
	$(RUN) -m pytest -m "$(FAST)" $(PARALLEL) $(ARGS)

faults: $(READY) ## test every kind of fault once, and what takes longer than ten seconds (10 minutes); in CI
	$(RUN) -m pytest -m "faults" $(IN_PAIRS) $(ARGS)

chaos: $(READY) ## before a release: make faults, all combinations of faults, whole scripts, 3,000 examples per property (40 minutes)
	$(RUN) -m pytest -m "faults or chaos or hypothesis" --hypothesis-profile=chaos $(IN_PAIRS) $(ARGS)

lint: $(READY) ## run ruff, bandit, pyright, and check which folder may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive emage pipelines cluster
	$(RUN) -m pyright
	.venv/bin/lint-imports --no-logo --no-cache

format: $(READY) ## format the code and apply ruff's fixes
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: $(DOCS) ## build the documentation site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

serve: $(READY) ## serve the shipped model, or CHECKPOINT=folder, on 127.0.0.1:8000 (PORT=)
	$(RUN) pipelines/serve.py demo checkpoint=$(CHECKPOINT) port=$(PORT)

ui: $(READY) ## open the MLflow pages on 127.0.0.1:5000
	.venv/bin/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///runs/mlflow.db

bench: $(PEERS) ## measure generation next to other models, precisions, training (10 minutes on two cores)
	$(RUN) benchmarks/generate.py
	$(RUN) benchmarks/precision.py
	$(RUN) benchmarks/train.py

bench-all: bench ## measure every number of the documentation except the paper's tables (hours)
	$(RUN) benchmarks/captions.py
	$(RUN) benchmarks/context.py
	$(RUN) benchmarks/ingest.py tokenize
	$(RUN) benchmarks/ingest.py scale
	$(RUN) benchmarks/loader.py
	$(RUN) benchmarks/serve.py
	$(RUN) benchmarks/nodes.py

audit: $(AUDIT) ## look for published advisories on the pinned versions; asks the package registry
	.venv/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

doctor: $(READY) ## check this machine, its cluster and its services (STORAGE=folder that all nodes share)
	$(RUN) -m emage doctor storage=$(STORAGE)

setup: $(READY) ## only set up .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  "Emage needs Python 3.11, 3.12 or 3.13, not %d.%d: make PYTHON=/path/to/python3.11" % v)'
	@echo "setting up .venv (once, a minute or two) ..."
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[pipelines,dev]'
	@touch $@

$(PEERS): $(READY)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[bench]'
	@touch $@

$(AUDIT): $(READY)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[audit]'
	@touch $@

$(DOCS): $(READY)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[docs]'
	@touch $@
