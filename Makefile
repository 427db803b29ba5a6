# `make train` trains a character model on real text; `make test` runs every check; `make bench` measures this machine.
# `make docs` builds the documentation's site.
# `make publish MACHINE=cpu_zen4_2cores MINUTES=40` measures what docs/ shows, and rewrites its tables and plots.
# `make wheel` builds a CPU wheel for the installed torch in dist/, and audits which systems it runs on (docs/install.md).
# `make compatibility PYTHON=python3.12 TORCH=torch==2.15.0` builds for another Python and torch, and runs some tests.
# All do their own set-up in .venv: with the torch of the system's python3 when it has one, else with the pinned one.
# `make fuzz SECONDS=3600`, `make sanitize SECONDS=600` and `make mutate` look for faults that nobody has met yet
# (docs/reliability.md). `make coverage` counts what the tests of the compiled CUDA backend reach (docs/coverage.md); it
# needs nvcc and no GPU.
# `make cuda-check` builds with CUDA against a CUDA torch in .venv-cuda, and runs every compiled kernel on the CPU; then it
# builds the host side against an older torch in .venv-cuda-older, and runs kernels that a newer nvcc in .venv-nvcc has
# compiled. It needs nvcc and no GPU. `make gpu-check` runs on a GPU.

PYTHON ?= python3
TORCH ?= torch==2.13.0
CUDA_TORCH ?= torch==2.14.1
OLDER_CUDA_TORCH ?= torch==2.11.0
NEWER_NVCC ?= 13.5
BIN := .venv/bin

SOURCES := setup.py pyproject.toml src/gru_ext/version.py $(shell find csrc -name '*.c*' -o -name '*.h')

CPP_SOURCES := find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'

.PHONY: train test pytest docs bench publish wheel compatibility lint format fuzz sanitize mutate coverage cuda-check gpu-check clean

train: .venv/built-examples
	$(BIN)/python examples/train_text.py $(ARGS)

# Lint beside the tests: mypy has one thread.
test: .venv/built-dev
	$(MAKE) --no-print-directory --jobs=2 lint pytest

# In a process for each of up to 8 cores, as most tests are of one thread. A process that is done takes tests from another;
# what several need is built once, under a lock.
pytest: .venv/built-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

docs: .venv/built-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo build/docs/index.html

bench: .venv/built-bench
	$(BIN)/python -m benchmarks $(or $(ARGS),quick --report out/quick.html)

publish: .venv/built-bench
	$(BIN)/python -m benchmarks.publish --machine $(MACHINE) --minutes $(or $(MINUTES),60) $(ARGS)

# What torch brings is left to torch: a wheel with a libtorch or a libgomp of its own would load them a second time.
wheel: .venv/built-wheel
	rm -rf build/wheel
	GRU_EXT_CUDA=0 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist --only-plat build/wheel/*.whl \
	  $(foreach library,libc10 libtorch libtorch_cpu libgomp,--exclude '$(library)*.so*')

# As a user installs it, and from outside of the checkout. What was found stands in docs/install.md.
compatibility: BIN := .venv-compatibility/bin
compatibility:
	$(PYTHON) -m venv --clear .venv-compatibility
	$(BIN)/python -m pip install --quiet '$(TORCH)' numpy 'setuptools>=77' ninja
	GRU_EXT_CUDA=0 $(BIN)/python -m pip install --quiet --no-build-isolation '.[test]'
	cd tests && ../$(BIN)/python -m gru_ext.info && ../$(BIN)/python -m pytest -n auto \
	  $(foreach name,modules autograd quantize errors lengths_and_resets,test_$(name).py)

lint: .venv/built-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(CPP_SOURCES) | xargs $(BIN)/clang-format --dry-run --Werror
	! $(CPP_SOURCES) | xargs grep -nE '^.{121}'  # of a comment, which clang-format leaves as it is

format: .venv/built-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CPP_SOURCES) | xargs $(BIN)/clang-format -i

# Each runs in tests/, where their helpers are.
fuzz: .venv/built-dev
	cd tests && PYTHONPATH=. ../$(BIN)/python -m fuzz $(or $(SECONDS),60) $(ARGS)

sanitize: .venv/built-dev
	cd tests && PYTHONPATH=. ../$(BIN)/python -m sanitize $(or $(SECONDS),60) $(ARGS)

mutate: .venv/built-dev
	cd tests && PYTHONPATH=. ../$(BIN)/python -m mutations $(ARGS)

coverage: .venv/built-dev
	$(BIN)/python tests/backend_coverage.py

# Tests of machine code need tools from .venv-cuda, and tests of cuDNN's functions its header. They skip in `make test`
# without it. The newer nvcc compiles what tests of results need. Those of planted faults judge the interpreter, not the
# compiler.
cuda-check: .venv-cuda/torch .venv-cuda-older/torch .venv-nvcc/nvidia .venv/built-dev
	.venv-cuda/bin/python tests/check_cuda_build.py $(ARGS)
	.venv-cuda-older/bin/python tests/check_cuda_build.py --host-only
	$(BIN)/python -m pytest -n auto tests/test_machine_code.py tests/test_cudnn_contenders.py
	CUDA_HOME=$(CURDIR)/.venv-nvcc/nvidia/cu13 $(BIN)/python -m pytest -n auto \
	  tests/test_accuracy.py::test_compiled_kernel tests/test_compiled_kernels.py -k 'accuracy or schedule'

# With the system's torch and the library that is there, built or carried; no environment, as there may be no network.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check --out out/gpu_check $(ARGS)

clean:
	rm -rf .venv .venv-compatibility .venv-cuda .venv-cuda-older .venv-nvcc build dist src/gru_ext/*.so src/*.egg-info

.venv/torch:
	@$(PYTHON) -m venv --system-site-packages .venv; \
	if $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  echo "using the system's torch"; \
	else \
	  $(PYTHON) -m venv --clear .venv && $(BIN)/python -m pip install --quiet --upgrade pip \
	  && $(BIN)/python -m pip install --quiet '$(TORCH)' numpy; \
	fi
	$(BIN)/python -m pip install --quiet 'setuptools>=77' wheel ninja
	@touch $@

.venv-cuda/torch: WANTED = $(CUDA_TORCH)
.venv-cuda-older/torch: WANTED = $(OLDER_CUDA_TORCH)
.venv-cuda/torch .venv-cuda-older/torch:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet '$(WANTED)' numpy 'setuptools>=77' wheel ninja \
	  nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	@touch $@

.venv-nvcc/nvidia: .venv/torch
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) nvidia-cuda-cccl \
	  $(foreach package,cuda-nvcc cuda-crt nvvm cuda-runtime,'nvidia-$(package)==$(NEWER_NVCC).*')
	@touch $@

# One rule for each set of extras: the examples need less than the tests.
.venv/built-%: .venv/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation -e '.[$*]'
	@touch $@
