# On a fresh machine with Python 3.11 or newer and pip, `make quickstart` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SMALL := $(VENV)/.quickstart
READY := $(VENV)/.ready
# Without --quiet, which would keep the warnings from --strict.
BUILD_SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: quickstart test check audit docs format clean

quickstart: $(SMALL)  ## tune a real network on real data; ends in a report
	$(BIN)/luthier quickstart

test: $(READY)  ## the whole test suite, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)  ## style, types, the arrows between the rooms, the site, and known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUILD_SITE)
	$(BIN)/python .ci/audit.py

audit: $(READY)  ## known vulnerabilities in what constraints.txt pins
	$(BIN)/python .ci/audit.py

docs: $(READY)  ## the documentation, in site/
	$(BUILD_SITE)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(SMALL): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[quickstart]"
	touch $@

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis site luthier-quickstart
