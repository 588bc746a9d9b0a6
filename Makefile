PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-faults soak test-compose fuzz lint format clean

demo: $(VENV)/.installed
	$(BIN)/fedelta run examples/breast-cancer.toml

test: $(VENV)/.installed-dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not faults' \
		--ignore tests/compose --ignore tests/faults

# Real processes that are killed, stopped, cut off and starved, and an oracle that replays what was written.
test-faults: $(VENV)/.installed-dev
	$(BIN)/pytest --durations 12 --numprocesses 2 --dist worksteal tests/faults/test_growth.py tests/faults
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m faults tests/test_run.py tests/test_archive.py

# The same at random for so many minutes; SEED=... repeats the trial of a seed that has failed.
MINUTES ?= 60
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# The deployment in containers, for real: needs a Docker engine, compose, and chromium to look at Flower.
test-compose: $(VENV)/.installed-dev
	$(BIN)/pytest tests/compose

# A million hostile messages for the decoders, on two cores; `make test` has a few of them.
fuzz: $(VENV)/.installed-dev
	FEDELTA_FUZZ_CASES=1000000 $(BIN)/pytest tests/security/test_fuzz.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What is installed follows these two files; the versions are those of constraints.txt.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("fedelta needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info < (3, 14) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find orchestrator tasks workers tests -name __pycache__ -type d -prune -exec rm -rf {} +
