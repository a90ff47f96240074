# `make test` and `make demo` do all the set-up; they need Python 3.10-3.12, git and make.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

.PHONY: help setup test soak demo lint bench gpu report docs clean
help:
	@echo "make setup | test | soak | demo [DATA=folder] | lint | bench | gpu [DATA=folder] | report | docs | clean"

setup: $(SETUP)

$(SETUP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.10, 3.11 or 3.12 found. Install one, or run: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Long runs of faults, and repetitions of other tests; with atheris where there is a wheel of it for this Python.
soak: $(SETUP)
	-$(BIN)/python -m pip install --quiet --editable '.[soak]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The whole path on a small synthetic torso CT; DATA=folder takes your own unlabelled scans instead.
demo: $(SETUP)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/demo.py -o demo_out $(if $(DATA),--data "$(DATA)")

bench: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks

# What a GPU can tell, in one call of under 8 minutes; DATA: CTs (.nii.gz). DEVICE=cpu TINY=1 rehearses it.
gpu: $(SETUP)
	$(BIN)/python -m tests.benchmarks.gpu -o gpu_out $(if $(DATA),--data "$(DATA)")

# Rebuilds examples/results/*/report.html from the committed tables; needs no images.
report: $(SETUP)
	for folder in examples/results/*/; do \
		$(BIN)/nnUNetv2_genesis_report --results $$folder -o $${folder}report.html || exit 1; done

# The documentation as a site, in site/; a dead link fails.
docs: $(SETUP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python .ci/make_reference.py
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) site build dist demo_out *.egg-info .pytest_cache .mypy_cache .ruff_cache
