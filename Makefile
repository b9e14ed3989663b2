# make demo: see it work. make test: prove it. Both set up what they need: Python 3.11+ and the package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test chaos lint bench lock clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "callgram needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	@$(BIN)/callgram demo

test: $(READY)
	@. .ci/browser && $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Hours of kills, freezes, cuts and lost webhooks: make chaos S=7200
chaos: $(READY)
	@CALLGRAM_CHAOS_S=$(or $(S),3600) $(BIN)/python -m pytest tests/chaos

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	@$(BIN)/python -m tests.bench $(ONLY)

# Newer versions of everything, after which the suite decides.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade "pip>=25.1" "setuptools>=77"
	build/lock/bin/python -m pip install --quiet ".[testing]" --group dev
	{ head -n 2 requirements.lock; build/lock/bin/python -m pip freeze --all | grep -v -e '^pip==' -e '^callgram'; } > build/new.lock
	mv build/new.lock requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
