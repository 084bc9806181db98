# Everything runs in .venv, which `install` builds and every other target asks for.

PY := .venv/bin/python
STAMP := .venv/.installed
BENCH := .venv/.bench
DEMO_OUT ?= runs/demo
DIST ?= dist
MODELS ?= runs/best/model.safetensors

# Small matrices: more threads than this only wait for one another.
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS

# The first interpreter that runs, is new enough and can make environments; PYTHON=... overrides the list.
PYTHON ?= python3.11 python3.12 python3.13 python3
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help install demo bench check-mnist test test-long lint format format-check types wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## build .venv with the package and the tools for its development

$(STAMP): pyproject.toml constraints.txt
	@if ! $(PY) -c '$(USABLE)' 2>/dev/null; then \
	    for python in $(PYTHON); do \
	        if $$python -c '$(USABLE)' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "error: no usable Python among: $(PYTHON)" >&2; \
	        echo "  needed: Python 3.11 or newer with the venv module (Debian: python3-venv)" >&2; \
	        echo "  point to one with: make install PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "building .venv with $$found"; \
	    $$found -m venv --clear .venv; \
	fi
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train, certify, attack and report on handwritten digits, into runs/demo
	.venv/bin/equicert demo --out $(DEMO_OUT)

$(BENCH): $(STAMP)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench: $(BENCH) ## measure speed and memory on MNIST with one thread, and write docs/performance.md
	OMP_NUM_THREADS=1 $(PY) -m benchmarks

check-mnist: $(STAMP) ## certify 10 000 MNIST images by MODELS, check each certificate, write docs/results/certificates.md
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.certificates $(MODELS)

test: $(STAMP) ## run the tests, in two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test-long: $(STAMP) ## run the tests that take minutes
	$(PY) -m pytest -m long --timeout 3600

lint: $(STAMP) ## run the linter
	$(PY) -m ruff check

format: $(STAMP) ## format the code
	$(PY) -m ruff check --select I --fix
	$(PY) -m ruff format

format-check: $(STAMP) ## check that the code is formatted
	$(PY) -m ruff format --check

types: $(STAMP) ## run the type checker
	$(PY) -m pyright

wheel: $(STAMP) ## build the source archive, and from it the wheel, into dist
	$(PY) -m build --outdir $(DIST)

clean: ## remove builds and caches; .venv and runs stay
	rm -rf build dist .hypothesis .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
