# Everything a contributor types. Each target sets up what it needs in .venv, once, and again only when
# pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
export PYTHON
ARGS ?=

BIN := .venv/bin
# The stamps are the last thing that a set-up writes, so an interrupted one is done again.
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev
PROTO_STAMP := .venv-proto/.installed
# What Node.js's package manager writes last.
NODE_STAMP := tests/clients/node/node_modules/.package-lock.json
PROTOC = PATH="$(CURDIR)/.venv-proto/bin:$$PATH" python -m grpc_tools.protoc -I. --python_out=. --mypy_out=.
# Someone without Consul waits no longer than this for an attempt to fetch it.
CONSUL_FETCH_SECONDS := 90

# PYTHON= may name another interpreter than the one that .venv was made with; venv.sh then begins again.
ifneq ($(PYTHON),)
version = $(shell { $(1) -c 'import sys; print(sys.version_info[:2])'; } 2>/dev/null || true)
ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
.PHONY: $(RUN_STAMP)
endif
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.13 chooses the interpreter, ARGS='...' goes to the command."

.PHONY: setup
setup: $(RUN_STAMP) ## Install Headrace into .venv
	@echo "Headrace is installed: .venv/bin/headrace"

.PHONY: run
run: $(RUN_STAMP) ## Build, check, serve and stream a real model (ARGS=--exit stops after the table)
	@CONSUL_BIN=$$(timeout $(CONSUL_FETCH_SECONDS) tools/install-consul.sh 2>/dev/null || true) \
		exec $(BIN)/headrace demo $(ARGS)

.PHONY: test
test: $(DEV_STAMP) ## Run the tests, but for the slow ones (ARGS goes to pytest)
	$(BIN)/pytest -q -m "not slow and not frameworks" $(ARGS)

.PHONY: test-frameworks
test-frameworks: .venv-frameworks/.installed ## Run the tests that import models from their own frameworks
	.venv-frameworks/bin/pytest -q -m frameworks $(ARGS)

.PHONY: lint
lint: $(DEV_STAMP) ## Check style, formatting and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

.PHONY: types
types: $(DEV_STAMP) ## Check the types
	$(BIN)/mypy

.PHONY: proto
proto: $(PROTO_STAMP) ## Generate the stubs from the .proto files
	cd proto && $(PROTOC) --grpc_python_out=. --mypy_grpc_out=. headrace_proto/v1/inference.proto
	cd proto && $(PROTOC) headrace_proto/v1/model_config.proto

.PHONY: bench
bench: $(DEV_STAMP) ## Measure the server beside a bare echo and the core alone (ARGS goes to the bench)
	$(BIN)/python -m bench $(ARGS)

.PHONY: gpu-check
gpu-check: .venv-gpu/.installed ## Prove and measure on this machine's GPU what `make gpu-bundle` made (ARGS goes to it)
	.venv-gpu/bin/python -m bench.gpu_check $(ARGS)

.PHONY: gpu-bundle
gpu-bundle: .venv-gpu/.installed ## Prepare gpu-check, also for a GPU machine without a network, in .gpu
	tools/gpu-bundle.sh .venv-gpu/bin/python .gpu

.PHONY: tensorrt-names
tensorrt-names: $(RUN_STAMP) ## Fetch TensorRT's bindings without TensorRT, for the tests of the names that are used
	@tools/install-tensorrt-bindings.sh

.PHONY: pycuda
pycuda: $(RUN_STAMP) ## Build a wheel of PyCUDA, which the Python index has none of, into .tools/pycuda
	@wheel=$$(tools/build-pycuda.sh $(BIN)/python .tools/pycuda) && echo "install it with: pip install $$wheel"

.PHONY: consul
consul: ## Fetch a Consul agent into .tools/consul for the tests and the demo
	tools/install-consul.sh

.PHONY: clients
clients: perf_analyzer grpcurl .venv-kserve/.installed .venv-mlserver/.installed $(NODE_STAMP) ## Fetch clients that others wrote, for the slow tests

.PHONY: perf_analyzer grpcurl
perf_analyzer grpcurl: $(RUN_STAMP)
	PYTHON=$(BIN)/python tools/install-client.sh $@

.PHONY: clean
clean: ## Remove all that these targets made
	rm -rf .venv .venv-* .gpu .tools .cache build dist .coverage* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache tests/clients/node/node_modules
	find proto engines server client tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): pyproject.toml
	@tools/venv.sh .venv $@ -e ".[cpu,build]"

$(DEV_STAMP): pyproject.toml $(RUN_STAMP)
	@tools/venv.sh .venv $@ -e ".[dev,conformance]"

# What Headrace also works with, for the gate. gRPC's helpers are generated code that refuses an older grpcio.
.venv-newest/.installed: pyproject.toml
	@tools/venv.sh .venv-newest $@ -e ".[dev]" "protobuf>=7" "grpcio-health-checking>=1.85"

.venv-oldest/.installed: pyproject.toml tools/floors.py $(RUN_STAMP)
	@tools/venv.sh .venv-oldest $@ -e ".[dev]" $$($(BIN)/python tools/floors.py server fast cpu gpu build)

# Files of Keras 2 are written by TensorFlow's Keras 2, which asks for the TensorFlow that is no CPU build.
# pip takes a CPU build of this release where it knows one, as the newer of two; what PyPI has for Linux brings CUDA.
TORCH := torch==2.13.0
.venv-frameworks/.installed: pyproject.toml Makefile
	@tools/venv.sh .venv-frameworks $@-extras -e ".[dev,torch,keras,boost,rtx]" $(TORCH)
	@tools/venv.sh .venv-frameworks $@ --no-deps tf_keras sklearn-pmml-model cached-property

# TensorRT for RTX builds plans without a GPU, and runs them where there is one.
.venv-gpu/.installed: pyproject.toml Makefile
	@tools/venv.sh .venv-gpu $@ -e ".[cpu,build,rtx]"

# All else is looked up in .venv, which takes less time than installing it again.
.venv-between/.installed: Makefile $(DEV_STAMP)
	@tools/venv.sh .venv-between $@-grpcio --no-deps $(addsuffix ==1.81.1,grpcio grpcio-channelz grpcio-health-checking grpcio-reflection)
	@echo "import site; site.addsitedir('$$(echo $(CURDIR)/.venv/lib/python*/site-packages)')" \
		> $$(echo .venv-between/lib/python*/site-packages)/all-else.pth
	@touch $@

# Stubs of newer tools refuse older grpcio and protobuf, so these versions are exact.
$(PROTO_STAMP): Makefile
	@tools/venv.sh .venv-proto $@ grpcio-tools==1.76.0 mypy-protobuf==5.1.0

# Clients of other servers want environments of their own: each has its own bounds on what it shares with us.
.venv-kserve/.installed: Makefile
	@tools/venv.sh .venv-kserve $@ kserve==0.21.0

.venv-mlserver/.installed: Makefile
	@tools/venv.sh .venv-mlserver $@ mlserver==1.7.1

# Nothing that a package would like to run at its installation is needed.
$(NODE_STAMP): tests/clients/node/package-lock.json
	npm ci --prefix $(dir $<) --ignore-scripts --no-audit --no-fund
