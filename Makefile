# Each target sets up what it needs, can come first, can be repeated, and does not redo finished work.
PYTHON ?= python3.11
BIN := .venv/bin
export EHR_HOME ?= $(CURDIR)/.ehr
# Quiet and offline: nothing here needs a model hub.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test check format dev bench clean

install: .venv/installed

.venv/installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# What our labels and predictions are held against. Their command lines need hydra, whose antlr4 is older
	# than Dagster's; their engines, which the tests call, do not.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps es-aces meds-evaluation
	touch $@

demo: install
	$(BIN)/ehr demo

# Side by side by file: the integration tests of a file share an installation.
test: install
	$(BIN)/pytest tests/unit -n 2 --dist loadfile
	$(BIN)/pytest tests/integration -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/dg check defs

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dev: install
	$(BIN)/ehr dev

bench: install
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf .venv build dist *.egg-info
