# `make run` and `make test` do all their own set-up; they need Python >= 3.11, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIN := .ci/constraints.txt
SOURCES := $(wildcard bifrost/_fast/*.pyx bifrost/_fast/*.pxd bifrost/_fast/*.h)
ARGS ?=
TESTS ?= tests

# An extra's packages by themselves: `-e '.[test]'` would compile everything again.
define extras
@$(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $(1) > $(VENV)/$(1).txt
@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install -q -c $(PIN) -r $(VENV)/$(1).txt
@touch $@
endef

.PHONY: run build test test-asgi test-clients check count bench annotate clean

run: $(VENV)/.built
	@exec $(BIN)/bifrost serve $(ARGS)

build: $(VENV)/.built

$(VENV)/.made: $(PIN)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"Bifrost needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Use: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "Could not make a virtual environment: install Python's venv module (Debian: python3-venv)."; exit 1; }
	@echo "Installing into $(VENV) ..."
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install -q -c $(PIN) 'setuptools>=80' cython
	@touch $@

$(VENV)/.built: $(VENV)/.made pyproject.toml setup.py $(SOURCES)
	@echo "Building bifrost ..."
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install -q -c $(PIN) --no-build-isolation -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.built
	$(call extras,test)

$(VENV)/.checked: $(VENV)/.tested
	$(call extras,check)

# Three at a time on two cores: near half of the time tests wait for timers and processes.
test: $(VENV)/.tested
	$(BIN)/python -m pytest -n 3 -m 'not clients' $(TESTS)

# What goes through a listener, once more with uvicorn's; tests that choose listeners do so anyway.
test-asgi: $(VENV)/.tested
	BIFROST_TEST_LISTENER=asgi $(BIN)/python -m pytest -n 3 \
	  -m 'gateway and not listeners and not clients' $(TESTS)

test-clients: $(VENV)/.tested
	$(BIN)/python -m pytest -m clients tests/clients

check: $(VENV)/.checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

count: $(VENV)/.tested
	$(BIN)/python -m benchmarks.instructions --check $(ARGS)

$(VENV)/.benched: $(VENV)/.tested
	$(call extras,bench)

bench: $(VENV)/.benched
	$(BIN)/python -m benchmarks $(ARGS)

annotate: $(VENV)/.made
	BIFROST_ANNOTATE=1 $(BIN)/python setup.py build_ext --inplace --force

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f bifrost/_fast/*.c bifrost/_fast/*.so bifrost/_fast/*.html
