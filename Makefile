# All targets set up what they need. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/muster
export NUMBA_CACHE_DIR ?= $(shell mkdir -p $(CACHE)/numba 2>/dev/null && test -w $(CACHE)/numba && echo $(CACHE)/numba || echo $(CURDIR)/build/numba)
export PYTHONHASHSEED ?= random
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A shim that exists but does not run (pyenv, asdf) counts as absent.
# The stand-in for the driver library is C: where no compiler is, one comes as a Python package.
LOCKS := requirements/dev.txt $(shell command -v gcc cc clang >/dev/null 2>&1 || echo requirements/compiler.txt)
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)

.PHONY: help setup demo test test-fast test-assumptions lint fmt types arch bench bench-openb bench-core bench-stock bench-driver bench-live test-live cluster cluster-demo cluster-down mutation lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-17s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the environment in .venv from the hashed lock file

$(STAMP): $(LOCKS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or set PYTHON=/path/to/python"; exit 1; }
	@if test -n "$(UV)"; then \
	  { test -x $(BIN)/python || "$(UV)" venv --quiet --python "$(PYTHON)" $(VENV); } && \
	  "$(UV)" pip sync --quiet --python $(BIN)/python --require-hashes $(LOCKS) && \
	  "$(UV)" pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	else \
	  { $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV); } && \
	  grep -A200 '^uv==' requirements/dev.txt | awk 'NR == 1 || /^    --hash/ {print; next} {exit}' > $(VENV)/uv.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes $(addprefix -r ,$(LOCKS)) && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	fi
	@touch $@

demo: $(STAMP) ## a gang on exact devices, a refusal explained, then three policies compared; writes build/demo
	$(BIN)/python -m tests.demo
	$(BIN)/muster-sim demo --out build/demo

test: lint types arch ## everything that CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not testbed" scheduler simulator dra_driver tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m testbed tests

test-assumptions: $(STAMP) ## what Muster assumes of Kubernetes, on the newest version and on the floor
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q tests/testbed/assumptions tests/testbed/test_controllers.py

test-live: $(STAMP) ## the end-to-end tests alone, all of them on the newest Kubernetes and on the oldest
	MUSTER_TESTBED_REQUIRED=1 MUSTER_FLOOR=1 MUSTER_ROUNDS=200 MUSTER_KILLS=all $(BIN)/python -m pytest -n 2 --dist loadgroup -q tests/live tests/driver/test_first_fit_live.py tests/driver/test_limits_live.py

test-fast: $(STAMP) ## the quick tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow and not testbed" scheduler simulator dra_driver tests

cluster: $(STAMP) ## a real Kubernetes cluster on this machine, left running; UP="--nodes 0 --fleet fleet_500" changes it
	$(BIN)/python -m tests.testbed up $(UP)

cluster-demo: $(STAMP) ## the demo on a real cluster: kubelets, containers, JobSet; needs root
	$(BIN)/python -m tests.demo.cluster

cluster-down: $(STAMP) ## end it
	$(BIN)/python -m tests.testbed down --all

lint: $(STAMP) ## style
	$(BIN)/ruff check scheduler simulator dra_driver proto tests
	$(BIN)/ruff format --check scheduler simulator dra_driver proto tests

fmt: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff check --fix scheduler simulator dra_driver proto tests
	$(BIN)/ruff format scheduler simulator dra_driver proto tests

types: $(STAMP) ## strict types
	$(BIN)/mypy

arch: $(STAMP) ## import contracts
	$(BIN)/lint-imports --no-cache

bench: bench-openb bench-core bench-stock bench-driver bench-live ## all benchmarks

bench-openb: $(STAMP) ## the published packing experiment and our policy beside it; writes build/bench/openb.json
	$(BIN)/python -m tests.bench openb

bench-core: $(STAMP) ## speed and memory of the core; writes build/bench/core.json
	$(BIN)/python -m tests.bench core

bench-live: $(STAMP) ## Muster beside stock kube-scheduler on one control plane; writes build/bench/live.json
	$(BIN)/python -m tests.bench live

bench-stock: $(STAMP) ## stock kube-scheduler's own DRA throughput on simulated nodes; writes build/bench/stock.json
	$(BIN)/python -m tests.bench stock

bench-driver: $(STAMP) ## prepares, publishing and memory of the DRA driver, first fit on its slices; writes build/bench/driver.json
	$(BIN)/python -m tests.bench driver

mutation: $(STAMP) ## mutation tests of the core (hours)
	$(BIN)/mutmut run

lock: $(STAMP) ## resolve the lock files anew
	for name in sim scheduler driver dev compiler; do \
	  extras="--extra $$name"; test $$name = dev && extras="--all-extras --group dev"; \
	  extras="$$extras pyproject.toml"; test $$name = compiler && extras="--group pyproject.toml:compiler"; \
	  $(or $(UV),$(BIN)/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    $$extras -o requirements/$$name.txt || exit 1; done

clean: ## remove everything that was built
	rm -rf build $(VENV) mutants
