# Everything runs in .venv, which is made on first use. Only Python >= 3.11 and make are needed.

# The first of these that runs and is new enough.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
VERSIONS ?= 15 16 18
PYTEST_ARGS ?=
# Tests run in so many workers (pytest-xdist); 0 runs them one after the other, as --pdb wants it. Each waits a third of
# its time, so three keep two processors busy.
JOBS ?= 3
DEMO_ARGS   ?=
BENCH_ARGS  ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv lock check format test test-unit test-database test-cluster test-matrix demo bench clean

help:  ## show this list
	@echo "usage: make <target>"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '%-16s %s\n' "$$t" "$$d"; done

venv: $(STAMP)  ## make .venv with the locked dependencies (done by the other targets when needed)

$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null \
	  || { echo "error: Python 3.11 or newer is needed; install it, or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@if [ ! -x $(BIN)/pip ]; then \
	  echo "making $(VENV) with $$("$(PYTHON)" --version)"; \
	  "$(PYTHON)" -m venv $(VENV) >/dev/null \
	    || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }; \
	fi
	@echo "installing the locked dependencies (requirements.lock)"
	@$(BIN)/pip install --quiet --no-deps -r requirements.lock
	@echo "installing the sidecar (editable)"
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

lock: $(STAMP)  ## write requirements.lock anew from what .venv holds
	@$(BIN)/python .ci/lock.py > requirements.lock.new
	@mv requirements.lock.new requirements.lock && touch $(STAMP)

check: $(STAMP)  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(STAMP)  ## all tests: unit, database (one server), cluster (several nodes)
	$(BIN)/pytest -n $(JOBS) tests/unit tests/database tests/cluster $(PYTEST_ARGS)

test-unit test-database test-cluster: test-%: $(STAMP)
	$(BIN)/pytest -n $(JOBS) tests/$* $(PYTEST_ARGS)

test-matrix: $(STAMP)  ## database tests on PostgreSQL 15, 16 and 18 (those installed here)
	@failed=; for v in $(VERSIONS); do \
	  if ! $(BIN)/python -c "import sys; from sidecar.lab.binaries import installed; sys.exit(installed($$v) is None)"; then \
	    echo "== PostgreSQL $$v is not installed here: skipped"; continue; \
	  fi; \
	  echo "== PostgreSQL $$v"; \
	  SIDECAR_TEST_PG_BIN= SIDECAR_TEST_PG=$$v $(BIN)/pytest -n $(JOBS) tests/database $(PYTEST_ARGS) || failed="$$failed $$v"; \
	done; \
	if [ -n "$$failed" ]; then echo "error: tests failed on PostgreSQL$$failed" >&2; exit 1; fi

demo: $(STAMP)  ## three regions on this machine: writers everywhere, a cut link, equal checksums
	$(BIN)/sidecar demo $(DEMO_ARGS)

bench: $(STAMP)  ## measure against built-in logical replication, same machine, same run
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:  ## remove .venv and all caches (also the servers' templates)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf "/var/tmp/pg-active-sidecar-$$(id -u)" "/dev/shm/pg-active-sidecar-$$(id -u)"
