# Everything a person does with this project. Set-up happens by itself, once, in .venv.

OUTPUT ?= runs/demo
PORT ?= 8000
CHECKPOINT ?= demo
STORAGE ?=
UV_VERSION := 0.13.8
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.10,$(shell command -v python$(v))) python3)
READY := .venv/.ready
PEERS := .venv/.peers
RUN := .venv/bin/python
FAST := not slow and not gpu and not network

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint format serve ui bench bench-all doctor setup

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(READY) ## the whole job on this machine, from a URL table to an HTTP answer (about 13 minutes on 2 cores)
	$(RUN) pipelines/demo.py demo output=$(OUTPUT)

test: $(READY) ## the tests, on all cores (14 minutes on two)
	$(RUN) -m pytest -m "$(FAST) and not ray" --numprocesses=auto --maxprocesses=8 --dist=loadfile
	$(RUN) -m pytest -m "$(FAST) and ray"

chaos: $(READY) ## the slower tests: what is killed goes on, scripts from start to end
	$(RUN) -m pytest -m "slow and not ray"
	$(RUN) -m pytest -m "slow and ray"

lint: $(READY) ## ruff and pyright
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(RUN) -m pyright

format: $(READY) ## ruff's formatter and fixes
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

serve: $(READY) ## the endpoint of the shipped model, or of CHECKPOINT=folder, on 127.0.0.1:8000
	$(RUN) pipelines/serve.py demo checkpoint=$(CHECKPOINT) port=$(PORT)

ui: $(READY) ## the MLflow pages on 127.0.0.1:5000
	.venv/bin/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///runs/mlflow.db

bench: $(PEERS) ## drawing beside the peers, precisions, training (about 10 minutes on 2 cores)
	$(RUN) benchmarks/generate.py
	$(RUN) benchmarks/precision.py
	$(RUN) benchmarks/train.py

bench-all: bench ## that, and the other measurements behind this project's claims
	$(RUN) benchmarks/captions.py
	$(RUN) benchmarks/ingest.py tokenize
	$(RUN) benchmarks/ingest.py scale
	$(RUN) benchmarks/loader.py
	$(RUN) benchmarks/serve.py
	$(RUN) benchmarks/nodes.py

doctor: $(READY) ## what of this machine, its cluster and its services is not as it must be (STORAGE=folder)
	$(RUN) -m emage doctor storage=$(STORAGE)

setup: $(READY) ## set-up alone

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 13) else \
	  "Emage needs Python 3.10, 3.11 or 3.12, not %d.%d: make PYTHON=/path/to/python3.11" % v)'
	@echo "setting up .venv (once, a minute or two) ..."
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[pipelines,dev]'
	@touch $@

$(PEERS): $(READY)
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) --constraint constraints.txt --editable '.[bench]'
	@touch $@
