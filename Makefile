# Needs only python3 (3.10 or newer, with venv and pip), git and make. PYTHON=... picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

venv: $(INSTALLED)  ## create .venv and install the package with all extras

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## encode and decode a real clip beside x264; CLIP=path takes your own
	$(BIN)/lvc-zoo demo $(if $(CLIP),--clip "$(CLIP)")

lint: $(INSTALLED)  ## ruff, import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint  ## lint, then the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow
