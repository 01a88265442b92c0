# Two commands to start with: `make run` and `make test`. Both make .venv first and need nothing but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test instruments fuzz soak cluster lint format speed gpu docs clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

run: setup           ## RMC attacked by PGD-Skip-Delayed on the embedded digits, and the page that shows it
	$(BIN)/bench run --defense rmc --attack pgd-skip-delayed
	$(BIN)/bench leaderboard

test: setup          ## the tests; those on MNIST need BENCH_DATA or skip with the reason
	$(BIN)/python -m pytest -n auto --dist loadfile

instruments: setup   ## the instrument checks that take many minutes; they need BENCH_DATA
	$(BIN)/python -m pytest -m slow

fuzz: setup          ## every parser of foreign bytes on many random inputs, in some minutes
	$(BIN)/python -m pytest -m fuzz -n auto tests/hostile/test_fuzz.py

soak: setup          ## kills at random moments for an hour: no row may differ. MINUTES=5 for less
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60)

cluster: setup       ## as root: two commands on Ray and one server; three hosts as network namespaces, one is killed; what Ray costs
	$(BIN)/python -m pytest -m slow tests/execution/test_ray.py
	$(BIN)/python -m benchmarks.hosts
	$(BIN)/python -m benchmarks.cluster

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

speed: setup         ## ratios, not seconds: see benchmarks/
	$(BIN)/python -m benchmarks.speed

gpu: setup           ## parity and speed on a CUDA device, in two to three minutes
	$(BIN)/python -m benchmarks.gpu

docs: setup          ## the documents as a site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
