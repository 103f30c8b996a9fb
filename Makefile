# The two commands: `make demo` and `make test`.  Each makes .venv first, if that is still needed.

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif
WORKERS ?= 2
ARGS ?=

.PHONY: demo test check lint layout types bench docs contract help clean

demo: ## train a small GPT on the Python standard library; ARGS="--steps 100" adds options
	@$(PYTHON) .ci/setup_env.py
	$(BIN)/modula train $(ARGS)

test: ## the whole test suite; ARGS="tests/norms -x" chooses
	@$(PYTHON) .ci/setup_env.py --extras dev
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: lint layout types ## lint, layout and types; `make -k check` goes on after a failure

lint: ## ruff's rules
	@$(PYTHON) .ci/setup_env.py --extras dev
	$(BIN)/python -m ruff check .

layout: ## ruff's format
	@$(PYTHON) .ci/setup_env.py --extras dev
	$(BIN)/python -m ruff format --check .

types: ## mypy, strict
	@$(PYTHON) .ci/setup_env.py --extras dev
	$(BIN)/python -m mypy

bench: ## every script of benchmarks/, one after the other
	@$(PYTHON) .ci/setup_env.py --extras dev
	@for script in benchmarks/[a-z]*.py; do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

docs: ## the pages of docs/, into docs/_build
	@$(PYTHON) .ci/setup_env.py --extras docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

contract: ## docs/contract.md: what happens when one does this or that to an optimizer
	@$(PYTHON) .ci/setup_env.py --extras dev
	PYTHONPATH=tests/support $(BIN)/python -m habits

dist: ## sdist and wheel for a package index; URL=https://github.com/OWNER/modula
	@$(PYTHON) .ci/setup_env.py --extras dev
	$(BIN)/python .ci/dist.py $(URL)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

clean: ## remove what was made: environment, builds, caches (never runs/)
	rm -rf .venv build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
