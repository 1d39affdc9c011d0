# The commands of this project; `make` alone lists them. CI runs `.ci/run`, which is `make check`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports check openapi lock bench clean

PYTHON_IN_VENV := .venv/bin/python
CHECKED        := app tests migrations
PYTEST_ARGS    ?= --numprocesses 2 --dist worksteal

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## set up .venv, docker-registry and PostgreSQL (only what is missing)
	@.ci/setup

demo:  ## copy one real registry to another and show it, from nothing
	@.ci/setup venv registry
	$(PYTHON_IN_VENV) -m tests.demo

test: setup  ## run all tests (PYTEST_ARGS="-k name" picks some)
	@echo "$(PYTHON_IN_VENV) -m pytest $(PYTEST_ARGS)"
	@$(PYTHON_IN_VENV) -m pytest $(PYTEST_ARGS) || { code=$$?; echo $$code > "$${PYTEST_CODE_FILE:-/dev/null}"; exit $$code; }

lint:  ## formatting and lint (ruff)
	@.ci/setup --quiet venv
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .

types:  ## types (mypy, strict)
	@.ci/setup --quiet venv
	.venv/bin/mypy $(wildcard $(CHECKED))

imports:  ## which room imports which (import-linter)
	@.ci/setup --quiet venv
	.venv/bin/lint-imports --no-cache --no-logo

# One after the other even under -j, fastest first: the first answer is the cheapest one.
check:  ## what CI runs: lint, types, imports, test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory imports
	@$(MAKE) --no-print-directory test

openapi:  ## write openapi/openapi.json from the code
	@.ci/setup --quiet venv
	@mkdir -p openapi
	.venv/bin/registry-sync openapi > openapi/openapi.json.new
	@mv openapi/openapi.json.new openapi/openapi.json

# --universal: one lock for every platform and every Python from 3.11 on; no file names an index or a machine.
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock:  ## write the lock files anew from pyproject.toml (LOCK_ARGS=--upgrade takes newer versions)
	@.ci/setup --quiet venv
	$(LOCK) $(LOCK_ARGS) pyproject.toml --output-file requirements.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock
	$(LOCK) $(LOCK_ARGS) --group build --constraints requirements-dev.lock --output-file requirements-build.lock

bench:  ## measure against peers on this machine
	@.ci/setup --quiet venv registry
	$(PYTHON_IN_VENV) -m tests.benchmarks

clean:  ## remove .venv and everything that tools wrote
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
