# Everything runs in .venv/, made on first use. `make demo` needs only the runtime packages.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all check bench format clean

demo: .venv/.runtime  ## the whole method on the embedded starter model
	$(BIN)/charter demo

test: .venv/.dev  ## the default tests
	$(BIN)/python -m pytest

test-all: .venv/.dev  ## the slow tests too
	$(BIN)/python -m pytest -m "not gpu"

check: .venv/.dev  ## lint, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.bench  ## the ratios we claim, measured on this machine
	@$(BIN)/python -m benchmarks

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist *.egg-info src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "charter needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv

# torch first and pinned: a plain `torch` would pull another build than the machine needs.
.venv/.runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable '.[lora]'
	@touch $@

.venv/.dev: .venv/.runtime
	$(PIP) --editable '.[lora,dev]'
	@touch $@

.venv/.bench: .venv/.dev
	$(PIP) --editable '.[lora,dev,bench]'
	@touch $@
