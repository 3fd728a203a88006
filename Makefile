# `make demo` and `make test` work as the very first command after a clone.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-fast test-transformers quality style clean

demo: $(INSTALLED)  ## learn the digits in five steps and publish each to a Hub in a folder
	$(PYTHON) -m hub.demo

test: $(INSTALLED) test-transformers  ## all tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile tests --ignore=tests/transformers_suite

test-fast: $(INSTALLED)  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile -m "not slow" tests --ignore=tests/transformers_suite

test-transformers: $(INSTALLED)  ## transformers' own tests of a model, on ours
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 -q tests/transformers_suite

quality: $(INSTALLED)  ## lint, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

style: $(INSTALLED)  ## fix lint and format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(INSTALLED): pyproject.toml
	test -d $(VENV) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	$(PYTHON) tests/transformers_suite/fetch.py
	touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist demo
