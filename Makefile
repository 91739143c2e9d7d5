# `make demo` and `make test`, and `make docs`, the site of the documentation. Each prepares .venv on its first run.
PYTHON ?= python3
BIN = .venv/bin

demo: .venv/ready
	$(BIN)/python -m tasks.run task=detection name=demo backbone.alpha=0.5 task.resolution=224 trainer.lr=0.008 trainer.minutes=3.4

# The tests start many processes: without kept byte code each would compile what it imports again.
test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

# More of what tests/chaos/test_chaos.py does: 50 kills of commands, 5,000 damaged files.
chaos: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.killed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos.mutated

# uv installs the 5 GB that torch brings in seconds rather than minutes.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -e .
	touch $@

# The site in build/site, with every link checked; needs the network once, for mkdocs.
docs: .venv/ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[docs]'
	$(BIN)/mkdocs build --strict

# The pictures of docs/, made anew by the commands that they show; half an hour, needs chromium.
docs-pictures: .venv/ready
	$(BIN)/python -m tests.pictures

# Runs the scripts that need nothing but this repository, and adds what they print to BENCHMARKS.md; hours, idle machine.
benchmarks: .venv/ready
	$(BIN)/python -m tests.benchmarks

# Pins every dependency for every platform; no index address is written.
lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock

.PHONY: demo test chaos docs docs-pictures benchmarks lock
