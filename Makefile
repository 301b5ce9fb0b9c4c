PY := .venv/bin/python
# Two threads fight over two cores as soon as anything else runs: idle workers must sleep, not spin.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
.DEFAULT_GOAL := help
.PHONY: help setup models check format test test-slow bench demo reproduce clean

help:  ## what there is to run
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## make .venv with the package and its developer environment
	@bash scripts/setup.sh

models: setup  ## fetch and convert the small models that the demo and the tests use
	@$(PY) -m hf_modalbridge.demo prepare

check: setup  ## lint, format and types of the public API
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup  ## rewrite the sources in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test: models  ## the tests, under 15 minutes on two cores
	$(PY) -m pytest -q

test-slow: models  ## the tests that take longer
	$(PY) -m pytest -q -m 'slow and not gpu and not network'

bench: setup  ## time the library beside what a user would otherwise run
	$(PY) benchmarks/realign.py
	$(PY) benchmarks/points.py

demo: models  ## the main job on real pictures, from nothing to a model that answers, under 20 minutes
	$(PY) recipes/demo.py

reproduce: models  ## the result table of the README: all rows, five seeds, resumable, hours
	$(PY) recipes/reproduce.py

clean:  ## remove what the commands above made, but not the cache of models
	rm -rf .venv runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
