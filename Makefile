# The commands of this project; `make` alone lists them. CI runs `.ci/run`, which is `make check`.
.DEFAULT_GOAL := help
.PHONY: help setup setup-tests demo test test-fast test-hostile test-contract test-clients test-console screenshots lint types imports check words openapi docs man sbom licenses audit bases lock bench clean

PYTHON_IN_VENV := .venv/bin/python
CHECKED        := app tests migrations
PYTEST_ARGS    ?= --numprocesses 3 --dist worksteal

# The tests start many processes: none shall compile the modules that another one has compiled.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## set up .venv: all that running the service needs
	@.ci/setup venv

setup-tests:  ## set up what the tests need too: their packages, registries, PostgreSQL, another client (only what is missing)
	@.ci/setup

demo:  ## copy one real registry to another and show it, from nothing
	@.ci/setup dev registry
	$(PYTHON_IN_VENV) -m tests.demo

test: setup-tests  ## run all tests (PYTEST_ARGS="-k name" picks some)
	@echo "$(PYTHON_IN_VENV) -m pytest $(PYTEST_ARGS)"
	@$(PYTHON_IN_VENV) -m pytest $(PYTEST_ARGS) || { code=$$?; echo $$code > "$${PYTEST_CODE_FILE:-/dev/null}"; exit $$code; }

test-fast:  ## run the tests that need no server and no service: lanes pure and fake
	@.ci/setup --quiet dev
	$(PYTHON_IN_VENV) -m pytest -m "pure or fake" $(PYTEST_ARGS)

test-hostile:  ## have registries and callers that mean harm try to keep the service from others (a minute)
	@.ci/setup --quiet dev
	REGISTRY_SYNC_TEST_HOSTILE=1 $(PYTHON_IN_VENV) -m pytest tests/test_hostility.py

test-contract:  ## ask every endpoint of the running service what the contract allows, and what not (CONTRACT_ARGS="--examples 100")
	@.ci/setup --quiet dev
	@$(TOOL) schemathesis==4.32.5 schemathesis --version >/dev/null 2>&1 || { echo "skipped: schemathesis can't be had here"; exit 0; }; \
	  $(PYTHON_IN_VENV) -m tests.contract $(CONTRACT_ARGS) -- $(CURDIR)/$(TOOL) schemathesis==4.32.5 schemathesis

test-clients: setup-tests  ## generate clients of the contract in Python, TypeScript and Go, and compile them
	REGISTRY_SYNC_TEST_CLIENTS=1 $(PYTHON_IN_VENV) -m pytest tests/test_generated_clients.py

test-console: setup-tests  ## try the console in Chromium
	$(PYTHON_IN_VENV) -m pytest tests/console

screenshots: setup-tests  ## make the pictures of docs/console.md
	REGISTRY_SYNC_SCREENSHOTS=$(CURDIR)/docs $(PYTHON_IN_VENV) -m pytest tests/console -k screenshots

lint:  ## formatting and lint (ruff)
	@.ci/setup --quiet dev
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .

types:  ## types (mypy, strict)
	@.ci/setup --quiet dev
	.venv/bin/mypy $(wildcard $(CHECKED))

imports:  ## which room imports which (import-linter)
	@.ci/setup --quiet dev
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

docs:  ## write the table of docs/configuration.md from the settings
	@.ci/setup --quiet venv
	@sed '/^<!-- settings/q' docs/configuration.md > docs/configuration.md.new
	@{ echo; .venv/bin/registry-sync settings; echo; } >> docs/configuration.md.new
	@sed -n '/^<!-- \/settings/,$$p' docs/configuration.md >> docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

# Tools of other projects, had when they are run; a machine that can't have one says so in a line.
TOOL = .venv/bin/uv tool run --quiet --from

sbom:  ## write build/sbom.json: what the image holds (CycloneDX)
	@.ci/setup --quiet dev
	@mkdir -p build
	@$(TOOL) cyclonedx-bom==7.5.0 cyclonedx-py --version >/dev/null 2>&1 || { echo "skipped: cyclonedx-bom can't be had here"; exit 0; }; \
	  $(TOOL) cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements-image.lock --pyproject pyproject.toml --output-file build/sbom.json && echo "wrote build/sbom.json"

licenses:  ## list the licences of all that is installed in .venv
	@.ci/setup --quiet dev
	@$(TOOL) pip-licenses==5.5.5 pip-licenses --version >/dev/null 2>&1 || { echo "skipped: pip-licenses can't be had here"; exit 0; }; \
	  $(TOOL) pip-licenses==5.5.5 pip-licenses --python .venv/bin/python

audit:  ## look for known vulnerabilities in the locked dependencies; a line and no failure where that can't be asked
	@.ci/setup --quiet dev
	@mkdir -p build
	@$(TOOL) pip-audit==2.10.1 pip-audit --version >/dev/null 2>&1 || { echo "skipped: pip-audit can't be had here"; exit 0; }; \
	  $(TOOL) pip-audit==2.10.1 pip-audit --require-hashes --disable-pip --progress-spinner off --timeout 10 --requirement requirements-image.lock > build/audit.txt 2>&1; code=$$?; \
	  if grep -q "ConnectionError\|ServiceError\|could not be audited" build/audit.txt; then echo "skipped: the list of vulnerabilities can't be asked here (build/audit.txt)"; exit 0; fi; \
	  cat build/audit.txt; exit $$code

bases:  ## write anew the digests of images from outside: Dockerfile, compose.yaml, the tests' registry (needs skopeo)
	@.ci/bases

man:  ## write the man pages of all commands to build/man
	@.ci/setup --quiet venv
	.venv/bin/registry-sync man build/man

words:  ## look for the field's word of each behaviour in app/
	@.ci/setup --quiet dev
	$(PYTHON_IN_VENV) -m tests.words

# --universal: one lock for every platform and every Python from 3.11 on; no file names an index or a machine.
LOCK := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock:  ## write the lock files anew from pyproject.toml (LOCK_ARGS=--upgrade takes newer versions)
	@.ci/setup --quiet dev
	# The image's first: its extras bound what the base may hold (botocore takes no python-dateutil 3).
	$(LOCK) $(LOCK_ARGS) pyproject.toml --all-extras --output-file requirements-image.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --constraints requirements-image.lock --output-file requirements.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --all-extras --group dev --constraints requirements-image.lock --output-file requirements-dev.lock
	$(LOCK) $(LOCK_ARGS) --group client --constraints requirements-image.lock --output-file requirements-client.lock
	$(LOCK) $(LOCK_ARGS) --group build --constraints requirements-dev.lock --output-file requirements-build.lock

bench:  ## measure beside the peers on this machine (BENCH_ARGS="small --rounds 3 --peers DIR" picks)
	@.ci/setup --quiet dev registry
	$(PYTHON_IN_VENV) -m tests.benchmarks $(BENCH_ARGS)

clean:  ## remove .venv and everything that tools wrote
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
