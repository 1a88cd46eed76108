# Each target sets up the virtual environment it needs; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long lint format bench clean

demo: .venv/.demo  ## serve a few hundred small models, call them, and go on serving until Ctrl-C (ONCE=1: end then)
	$(BIN)/modelplex demo $(if $(ONCE),--once)

test: .venv/.test  ## all but what takes long (test-long); TESTS="..." chooses
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS)
else  # side by side; what runs on a machine is found by its folder for temporary files, so each has its own
	@one=`mktemp -d /tmp/mXXXXXX` two=`mktemp -d /tmp/mXXXXXX` three=`mktemp -d /tmp/mXXXXXX`; \
	TMPDIR=$$one $(BIN)/python -m pytest -m "(not system or stores) and not long" & first=$$!; \
	(export TMPDIR=$$two; $(BIN)/python -m pytest -m "cluster and not long" && \
	 $(BIN)/python -m pytest tests/examples -m "system and not (stores or long)" && \
	 $(BIN)/python -m pytest -m "doors and not long") & second=$$!; \
	TMPDIR=$$three $(BIN)/python -m pytest --ignore=tests/examples \
	 -m "system and not (stores or doors or cluster or long)"; failed=$$?; \
	wait $$first || failed=1; wait $$second || failed=1; rm -rf $$one $$two $$three; exit $$failed
endif

test-long: .venv/.test  ## the rest: faults on a Ray cluster, random kills, memory of each loader, predictions, floods
	$(BIN)/python -m pytest -m "long"

lint: .venv/.test .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

WHAT ?= dataplane stores scale cluster
bench: .venv/.bench  ## speed beside others, in an hour and a half; WHAT=stores ARGS="..." chooses
	@for each in $(WHAT); do $(BIN)/python -m benchmarks.$$each $(ARGS) || exit; done

clean:
	rm -rf .venv .bench

.venv/.pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

.venv/.demo: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	@touch $@

# The tests of pages need a browser. As root on Debian it is installed; elsewhere, without one, they are skipped.
.venv/.browser: .venv/.pip
	@if ! command -v chromium >/dev/null && [ `id -u` = 0 ] && command -v apt-get >/dev/null; then \
	(apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium) \
	>.venv/browser.log 2>&1 || echo "There is no chromium; see .venv/browser.log"; fi
	@touch $@

.venv/.test: .venv/.demo .venv/.browser pyproject.toml
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

.venv/.bench: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[plan]" --group bench
	@touch $@

.venv/.lint: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@
