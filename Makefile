# `make demo` and `make test` set themselves up: they need Python >= 3.11 and make, no GPU.
#   PYTHON=python3.12   the interpreter that makes the environment (default: the first one found that is new enough)
#   VENV=.venv          the environment; one that exists is used as it is
#   ARGS=...            passed on to the demo or to pytest, e.g. make test ARGS="-k nearest"

PYTHON ?=
VENV ?= .venv
WORKERS ?= auto
ARGS ?=

PY := $(VENV)/bin/python
DEV := $(VENV)/.installed-dev
TRAIN := $(VENV)/.installed-train
WHEELS := $(VENV)/.installed-wheels
DOCS := $(VENV)/.installed-docs
NATIVE := stn_triton/native/$(if $(filter Darwin,$(shell uname -s)),stn_native.dylib,stn_native.so)
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)

# Interpreted kernels keep one core busy each: processes pay, threads inside them only get in the way.
# --benchmark-disable: pytest-benchmark would warn that it does nothing under xdist.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal --benchmark-disable

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check bench docs lint native wheels smoke versions sanitize clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

# The demo takes what is there: the full environment if it was made, else a smaller one.
demo: $(if $(wildcard $(DEV)),$(DEV),$(TRAIN)) ## Train a spatial transformer on the CPU and show what it does
	$(PY) -m architectures.demo $(ARGS)

test: lint native ## Lint, types and all tests (kernels run in Triton's interpreter where there is no GPU)
	$(PYTEST) $(ARGS)

check: lint native ## Lint, types and the quick tests, for while you work
	$(PYTEST) -m "not slow" $(ARGS)

bench: $(DEV) ## Compare throughput with every peer that is installed
	$(PY) -m pytest --benchmark $(ARGS)

# npm fetches MathJax and onnxruntime-web once; the site then needs no network.
docs: native $(DOCS) ## Run the pages' code and build the site: build/site/index.html
	$(PY) -m mkdocs build --strict

native: $(NATIVE) ## Build the native CPU library beside its sources

$(NATIVE): $(wildcard stn_triton/native/*.h stn_triton/native/*.cc stn_triton/native/build.py) | $(PY)
	$(PY) stn_triton/native/build.py

# One command on one Linux machine, for a release: ziglang compiles for every system.
wheels: $(WHEELS) ## Wheels for Linux, macOS and Windows, one without a library, and the sdist
	rm -rf dist
	$(PY) -m hatchling build -t sdist -d dist
	for target in x86_64-linux-gnu.2.17 aarch64-linux-gnu.2.17 aarch64-macos.11.0 x86_64-windows-gnu 0; do \
	  STN_TRITON_NATIVE=$$target $(PY) -m hatchling build -t wheel -d dist || exit 1; \
	done
	$(PY) tests/support/wheels.py dist

smoke: | $(PY) ## Install the files of `make wheels` that are for Linux x86-64, each alone, and sample
	$(PY) tests/support/smoke.py $(wildcard dist/*.tar.gz dist/*-any.whl dist/*-manylinux*_x86_64.whl)

# ARGS: some of its environments, such as `make versions ARGS="oldest without-triton"`. Each takes 1 to 6 GB of build/.
versions: | $(PY) ## The tests with the oldest and newest versions, with each Python here, without what is optional
	$(PY) tests/support/versions.py --workers $(WORKERS) $(ARGS)

sanitize: | $(PY) ## Random shapes through the native library under AddressSanitizer and UBSan
	$(PY) tests/support/native_fuzz/run.py $(ARGS)

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean: ## Remove caches, builds and outputs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist out *.egg-info
	find stn_triton architectures bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf __pycache__

distclean: clean ## The same, and the environment
	rm -rf $(VENV)

$(PY):
	@found=; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python >= 3.11 among: $(CANDIDATES). Name one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	rm -f $(VENV)/bin/python*; \
	"$$found" -m venv $(VENV) || { \
	  rm -f $(VENV)/bin/python*; \
	  echo "make: '$$found -m venv' failed; on Debian and Ubuntu it is in the package python3-venv" >&2; exit 1; \
	}

$(DEV): EXTRA := dev
$(TRAIN): EXTRA := train
$(DOCS): EXTRA := docs
$(DEV) $(TRAIN) $(DOCS): pyproject.toml constraints.txt | $(PY)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRA)]'
	@touch $@

# Neither torch nor the package itself is needed to build it.
$(WHEELS): constraints.txt | $(PY)
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt hatchling lief ziglang
	@touch $@
