# Two commands do everything on a fresh machine: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
ARGS ?= chat

.DEFAULT_GOAL := help
.PHONY: help run test check fix docs bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: $(VENV)/.installed ## install if needed and run llmcli with ARGS; without ARGS open the chat
	@$(PY) -m llmcli $(ARGS)

test: $(VENV)/.developing ## install if needed and run everything that CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) -m docs.build --check
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fix: $(VENV)/.developing ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.developing ## write the generated parts: README tables and completion scripts
	$(PY) -m docs.build

bench: $(VENV)/.developing ## measure against the plain loop (and llama-completion, where LLAMA_COMPLETION names it)
	$(PY) -m benchmarks.run

clean: ## remove the environment and all caches of this folder
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache

$(PY):
	$(PYTHON) -m venv $(VENV)

# llama-cpp-python is compiled here the first time (about five minutes on two cores); pip keeps the result.
$(VENV)/.installed: pyproject.toml | $(PY)
	@echo "installing; the first time llama.cpp is compiled, which takes some minutes"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
