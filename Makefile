# Every target is one command; the first use of any of them makes .venv and installs what is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev
INSTALLED_BENCH := .venv/installed-bench
FLAGS ?=
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
UV := build/uv/bin/uv
# The workers of a test run share the cores: with threads of their own, small operations wait for each other for minutes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal
COMPILE := $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header --annotation-style line

.DEFAULT_GOAL := help
.PHONY: help install train-baseline train-augmented compare evidence layers preview backbones tensorboard test test-slow coverage planted-bugs kills lint format bench lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo "  FLAGS=... passes options on: make compare FLAGS='--name mine --head.folds 3'"

install: $(INSTALLED) ## make .venv and install blurtrain (5 GB with torch's CUDA build, a few minutes)

train-baseline: $(INSTALLED) ## train the baseline arm on the embedded digits
	$(BIN)/blurtrain train --config configs/baseline.yaml $(FLAGS)

train-augmented: $(INSTALLED) ## train the augmented arm: clean images and slightly blurred copies
	$(BIN)/blurtrain train --config configs/augmented.yaml $(FLAGS)

compare: $(INSTALLED) ## train both arms where missing, and compare them under heavy blur
	$(BIN)/blurtrain compare --config configs/augmented.yaml $(FLAGS)

evidence: $(INSTALLED) ## controls, other families, numbers and strengths of copies on the embedded digits
	$(BIN)/blurtrain evidence --config configs/augmented.yaml $(FLAGS)

layers: $(INSTALLED) ## state what theory bounds at each convolution of the embedded network, and measure it on digits
	$(BIN)/blurtrain layers --config configs/augmented.yaml $(FLAGS)

preview: $(INSTALLED) ## draw training images through the blurs: make preview FLAGS='--data.root ROOT'
	$(BIN)/blurtrain preview --config configs/augmented.yaml $(FLAGS)

backbones: $(INSTALLED) ## list the networks that can be imported: make backbones FLAGS=resnet
	$(BIN)/blurtrain backbones $(FLAGS)

tensorboard: $(INSTALLED) ## show all runs in TensorBoard on 127.0.0.1: make tensorboard FLAGS='--port 7007'
	$(BIN)/blurtrain tensorboard $(FLAGS)

test: $(INSTALLED_DEV) ## run the tests
	$(PYTEST) -m "not slow" --jaxtyping-packages=blurtrain,beartype.beartype $(FLAGS)

test-slow: $(INSTALLED_DEV) ## run the tests that take longer
	$(PYTEST) -m slow --jaxtyping-packages=blurtrain,beartype.beartype $(FLAGS)

coverage: $(INSTALLED_DEV) ## show which branches the tests do not reach
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing:skip-covered $(FLAGS)

planted-bugs: $(INSTALLED_DEV) ## break the code in known ways; the tests must notice each
	$(BIN)/python tests/planted_bugs.py $(FLAGS)

kills: $(INSTALLED_DEV) ## kill, interrupt, double and damage comparisons: make kills FLAGS='--seeds 0 1 2'
	$(BIN)/python -m tests.kills $(FLAGS)

lint: $(INSTALLED_DEV) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED_BENCH) ## measure speed beside peers: make bench FLAGS='--root ROOT --weights squeezenet1_1=FILE'
	$(BIN)/python benchmarks/speed.py $(FLAGS)

lock: $(UV) ## pin what is installed again, keeping versions that still fit: make lock FLAGS=--upgrade
	$(COMPILE) -o requirements.lock $(FLAGS)
	$(COMPILE) -o requirements-dev.lock --extra dev -c requirements.lock $(FLAGS)
	$(COMPILE) -o requirements-bench.lock --extra dev --extra bench -c requirements-dev.lock $(FLAGS)

clean: ## remove what tools leave behind; never touches runs, cache or data
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find blurtrain tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

# The locks are whole, so pip resolves nothing (--no-deps): where it does, a newer release of a package that another one
# wants with an extra, such as coverage[toml], makes it refuse the pin.
#
# Without build isolation, which would fetch a setuptools that nothing pins: the lock has one, since torch needs it too.
$(INSTALLED): pyproject.toml requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "blurtrain needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(PIP) install --no-deps --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.lock
	$(PIP) install --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED_DEV) requirements-bench.lock
	$(PIP) install --no-deps --require-hashes -r requirements-bench.lock
	@touch $@

$(UV):
	$(PYTHON) -m venv --clear build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
