# make train: from nothing to a trained CNN.  make test: from nothing to a passed test suite.
# Both make the environment in .venv if it is not there; a second call does not install again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
comma := ,
DEV := $(VENV)/.dev$(if $(EXTRAS),-$(EXTRAS))
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# A path instead of an import hook, so that type checkers and editors see the package.
EDITABLE := --config-settings editable_mode=compat

.PHONY: help train test recorded sanitize nvrtc docs gpu-double lint fuzz bench bench-compare clean
.DELETE_ON_ERROR:

help:
	@echo "make train   environment, data, a quickly trained CNN with its figures"
	@echo "make test    environment, all tests that this machine can run"
	@echo "make recorded   the tests of the ops once more, each op called as a part of a recorded step"
	@echo "make sanitize   the CUDA kernels on the CPU under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make nvrtc   the CUDA kernels through NVIDIA's compiler: registers, spills and shared memory on seven architectures"
	@echo "make docs    the documentation as HTML, its programs run"
	@echo "make gpu-double   the tests of a GPU on a CUDA of host memory, with one device and with two, as nvcc rounds, too; no GPU is needed"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make fuzz    mutated files through every parser, for 20 seconds (FUZZ_ARGS='--seconds 600 --seed 1')"
	@echo "make bench   times every op beside its peers; one table, and a dated result in bench/results"
	@echo "make bench-compare   the same against the last committed result, as ratios"
	@echo "make clean   remove the environment and caches, not the runs"
	@echo "EXTRAS=peers make test   also compares with PyTorch"

train: $(VENV)/.run
	$(BIN)/gpunet train cnn --preset quick

SANITIZED := tests/cuda/test_every_kernel.py::test_kernels_are_clean_under_the_sanitizers

test: $(DEV)
	$(BIN)/python -m pytest -n auto --dist worksteal --deselect $(SANITIZED) --ignore tests/nvrtc $(PYTEST_ARGS)

# Not those of processes, compilation and files.
RECORDED := $(addsuffix .py,$(addprefix tests/ops/test_,activation batchnorm batchnorm_pool conv2d conv2d_batchnorm_pool \
	conv2d_inference cross_entropy dropout elementwise_loss empty_batches fft gather linear optimizer out pool2d \
	step_state winograd))

recorded: $(DEV)
	$(BIN)/python -m pytest -n auto -p tests.ops.recorded $(RECORDED) $(PYTEST_ARGS)

sanitize: $(DEV)
	$(BIN)/python -m pytest $(SANITIZED) $(PYTEST_ARGS)

nvrtc: $(DEV)
	$(BIN)/python -m pytest -n auto tests/nvrtc $(PYTEST_ARGS)

gpu-double: $(DEV)
	$(BIN)/python -m tests.cuda_double all $(PYTEST_ARGS)

# The examples are run and drawn by the build; the Python on the pages and the tutorial by the tests.
docs: $(VENV)/.docs
	$(BIN)/python -m pytest -n auto docs $(PYTEST_ARGS)
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

bench: $(DEV)
	$(BIN)/python -m bench.suite $(BENCH_ARGS)

bench-compare: $(DEV)
	$(BIN)/python -m bench.compare $(BENCH_ARGS)

clean:
	rm -rf $(VENV) docs/_build docs/gallery docs/reference/generated build dist *.egg-info .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gpunet needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; exit 2; }

# The stamps are as new as the installation, so pip runs again only when pyproject.toml changes.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(EDITABLE) --editable .
	@touch $@

# EXTRAS adds to what the tests need, e.g. EXTRAS=peers for PyTorch and onnxruntime.
$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(EDITABLE) --editable '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@ $(VENV)/.run

$(VENV)/.docs: $(DEV)
	$(BIN)/python -m pip install --quiet $(EDITABLE) --editable '.[dev,docs$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@
