# Each target sets up the virtual environment it needs; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format bench clean

demo: .venv/.demo  ## serve a few hundred small models, call them, and go on serving until Ctrl-C (ONCE=1: end then)
	$(BIN)/modelplex demo $(if $(ONCE),--once)

test: .venv/.test  ## everything that is tested; TESTS="..." chooses
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS)
else  # two at a time; what runs on a machine is found by its folder for temporary files, so each has its own
	@unit=`mktemp -d /tmp/mXXXXXX` system=`mktemp -d /tmp/mXXXXXX`; \
	TMPDIR=$$unit $(BIN)/python -m pytest -m "not system or stores" & first=$$!; \
	TMPDIR=$$system $(BIN)/python -m pytest -m "system and not stores"; second=$$?; \
	wait $$first && test $$second = 0; both=$$?; rm -rf $$unit $$system; exit $$both
endif

lint: .venv/.test .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

WHAT ?= dataplane stores
bench: .venv/.bench  ## speed beside others, in an hour: servers, then stores and loaders; WHAT=stores ARGS="..." chooses
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

.venv/.test: .venv/.demo pyproject.toml
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

.venv/.bench: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[plan]" --group bench
	@touch $@

.venv/.lint: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@
