# Needs Python 3.11, Java 17 and Maven; everything else is fetched into .venv and the user's cache.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.fanpulse
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long properties check bench chaos fuzz soak lock clean

help:
	@echo 'make demo [ARGS="--fans 5000"]   everything: environment, stack, history, live figures'
	@echo 'make venv                        only the environment .venv; then: . .venv/bin/activate; fanpulse --help'
	@echo 'make test [ARGS="-k home"]       tests, on a real Kafka and ClickHouse'
	@echo 'make test-long                   tests that make test leaves out, for the time they take'
	@echo 'make properties                  tests of properties, on examples drawn anew'
	@echo 'make check                       ruff and mypy'
	@echo 'make bench                       events per second of one worker'
	@echo 'make chaos [ARGS="--quick"]       faults under load: is anything lost, doubled or wrong?'
	@echo 'make fuzz [ARGS="--seed 2"]       a million broken records: is one read wrongly, or lost?'
	@echo 'make soak [ARGS="--minutes 30"]   the real commands under a steady load: does anything grow?'
	@echo 'make lock                        requirements.lock anew from requirements*.in (keeps pins that still fit)'
	@echo 'make clean                       remove .venv and caches; data in FANPULSE_HOME stay'

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
		|| { echo 'fanpulse: Python 3.11 is needed: apt-get install python3.11 python3.11-venv, then make venv PYTHON=python3.11' >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo 'fanpulse: cannot make .venv: apt-get install python3.11-venv' >&2; exit 2; }
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	@touch $@

demo: venv
	@$(BIN)/fanpulse demo $(ARGS)

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: venv
	$(BIN)/python -m pytest -m long $(ARGS)

properties: venv
	$(BIN)/python -m pytest --hypothesis-profile=default -m "not stack and not slow and not long" $(ARGS)

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m bench $(ARGS)

chaos: venv
	$(BIN)/python -m chaos $(ARGS)

fuzz: venv
	$(BIN)/python -m chaos.fuzz $(ARGS)

soak: venv
	$(BIN)/python -m chaos.soak $(ARGS)

lock: venv
	env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL -u UV_INDEX_URL -u UV_FIND_LINKS $(BIN)/uv pip compile -q \
		--universal --python-version 3.11 --generate-hashes --no-header --no-annotate requirements-dev.in -o requirements.lock

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
