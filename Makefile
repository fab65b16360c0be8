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
	$(PY) -m pytest

fix: $(VENV)/.developing ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.developing ## write the generated parts: tables of the manual and completion scripts
	$(PY) -m tools.docs

bench: $(VENV)/.developing ## measure all figures of speed (with llama.cpp's programs, if LLAMA_CPP_BIN is their folder)
	$(PY) -m benchmarks.speed $(if $(LLAMA_CPP_BIN),--llama-cpp $(LLAMA_CPP_BIN)) $(SPEED)

clean: ## delete the environment and all caches of this folder
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache

$(PY):
	$(PYTHON) -m venv $(VENV)

# The first time, pip compiles llama.cpp, which takes minutes without a word from the compiler; pip keeps the wheel.
# So that a person sees that it lives, `timed COMMAND` prints a line with the time so far every ten seconds.
TIMED = timed() { \
		started=$$(date +%s); seconds=0; next=10; \
		"$$@" & child=$$!; \
		trap 'kill $$child 2>/dev/null; exit 130' INT TERM; \
		while kill -0 $$child 2>/dev/null; do \
			sleep 1; \
			seconds=$$(($$(date +%s) - started)); \
			if [ $$seconds -ge $$next ]; then echo "  installing ... $$seconds s"; next=$$((seconds + 10)); fi; \
		done; \
		wait $$child || exit 1; \
		echo "installed in $$seconds s"; \
	}
PIP := $(PY) -m pip --quiet --disable-pip-version-check

# What llama.cpp is compiled with: a model over several machines (`--rpc`), and what CMAKE_ARGS of the caller adds.
LLAMA_CPP := -DGGML_RPC=ON $(CMAKE_ARGS)

# llama.cpp is compiled for the processor that the machine reports. Some virtual machines report instructions (AMX)
# that they do not run: the check ends with SIGILL, status 132. Then llama.cpp is compiled again without them.
$(VENV)/.installed: pyproject.toml | $(PY)
	@echo "installing llmcli; the first time, llama.cpp is compiled: 3 to 10 minutes"
	@$(TIMED); timed env CMAKE_ARGS="$(LLAMA_CPP)" $(PIP) install --editable ".[serve]"
	@$(TIMED); status=0; ( $(PY) -m tools.check_cpu; exit $$? ) >/dev/null 2>&1 || status=$$?; \
	if [ $$status -eq 132 ]; then \
		echo "this machine does not run all instructions that its processor reports: compiling llama.cpp again, portable"; \
		version=$$($(PY) -c 'from importlib.metadata import version; print(version("llama-cpp-python"))'); \
		timed env CMAKE_ARGS="$(LLAMA_CPP) -DGGML_NATIVE=OFF" $(PIP) install --force-reinstall --no-cache-dir --no-deps \
			--no-binary llama-cpp-python "llama-cpp-python==$$version"; \
	fi
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo "installing the tools for the tests"
	$(PIP) install --editable ".[dev]"
	@touch $@
