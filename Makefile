# On a fresh machine, `make run` and `make test` install what they need. `make help` lists the other targets.

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

run: $(VENV)/.installed ## install if necessary, then run llmcli with ARGS (default: chat)
	@$(PY) -m llmcli $(ARGS)

test: $(VENV)/.developing ## install if necessary, then run the checks and tests of CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PY) -m tools.docs --check
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fix: $(VENV)/.developing ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.developing ## write the generated parts: tables of the manual and completion scripts
	$(PY) -m tools.docs

bench: $(VENV)/.developing ## run the benchmarks (with llama-completion, if LLAMA_COMPLETION is its path)
	$(PY) -m benchmarks.run

clean: ## delete the environment and all caches of this folder
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache

$(PY):
	$(PYTHON) -m venv $(VENV)

# The first time, pip compiles llama.cpp, which takes minutes without a word from the compiler; pip keeps the wheel.
# So that a person sees that it lives, a line with the time so far appears every ten seconds.
$(VENV)/.installed: pyproject.toml | $(PY)
	@echo "installing llmcli; the first time, llama.cpp is compiled: 3 to 10 minutes"
	@started=$$(date +%s); \
	$(PY) -m pip install --quiet --disable-pip-version-check --editable . & pip=$$!; \
	trap 'kill $$pip 2>/dev/null; exit 130' INT TERM; \
	seconds=0; \
	while kill -0 $$pip 2>/dev/null; do \
		sleep 1; \
		seconds=$$(($$(date +%s) - started)); \
		if [ $$((seconds % 10)) -eq 0 ] && [ $$seconds -gt 0 ]; then echo "  installing ... $$seconds s"; fi; \
	done; \
	wait $$pip || exit 1; \
	echo "installed in $$seconds s"
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo "installing the tools for the tests"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
