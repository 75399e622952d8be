# Each target sets itself up: a virtual environment in .venv, nothing global.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-minimum/bin

.PHONY: demo test random test-minimum mutants check docs clean

NEW_ENOUGH = $(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else "Python 3.10 or newer is needed, found %d.%d: make PYTHON=python3.12" % v[:2])'

demo: .venv/ready  ## train GVR on the bundled digits, test it, draw its curves
	$(BIN)/python train.py regularizer=gvr alpha=0.01

# Three at a time, also on two cores: some tests wait for processes that they have started.
test: .venv/ready  ## the whole test suite, offline
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

random: .venv/ready  ## the same in a random order, whose seed is printed: ARGS='--randomly-seed=1' repeats it
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -p randomly $(ARGS)

# Old releases on newer ones of what they need themselves: what such calls will lose one day is no fault of ours.
test-minimum: .venv-minimum/ready  ## the same with the oldest releases that pyproject.toml allows; PYTHON=python3.10 for the oldest Python
	$(OLDEST)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -W ignore::DeprecationWarning -W ignore::FutureWarning

mutants: .venv/ready  ## faults put into copies of the code, one at a time; ARGS='--draw 40 --seed 1' draws others
	$(BIN)/python tests/mutants/main.py $(ARGS)

check: .venv/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## the documentation, in site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

.venv/ready: EXTRA := dev
.venv/docs: EXTRA := docs

.venv/ready .venv/docs: pyproject.toml
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA)]'
	@touch $@

.venv-minimum/ready: pyproject.toml
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv .venv-minimum
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct -e '.[dev]'
	@touch $@

clean:  ## remove the environments and caches; outputs stay
	rm -rf .venv .venv-minimum .pytest_cache .mypy_cache .ruff_cache site
