# Every target that runs something sets up first; a finished set-up costs under a second.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup train test check fmt bench openapi lock clean

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export STEPTOOL_HOME := $(CURDIR)
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.setup/torch_extensions
export STEPTOOL_PYTHON

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything into this directory (incremental; STEPTOOL_PYTHON=... names a Python 3.11)
	@scripts/setup

train: setup ## Train SmolLM2-135M to use tools on this machine (ARGS="--set seed=1" adds settings)
	@$(BIN)/steptool train --preset quickstart $(ARGS)

test: ## Set up, PostgreSQL and Chromium too, and run the test suite (ARGS="tests/learner -k credit" narrows it)
	@scripts/setup tests
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Lint, formatting, types and the import contract of the five floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fmt: setup ## Format the code and apply safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure the training loop by phase; the last line is one JSON object
	@$(BIN)/steptool bench loop $(ARGS)

openapi: setup ## Write the description of the reward service's API into docs/api/rewards.json
	@$(BIN)/python -m reward_service.openapi docs/api/rewards.json

lock: setup ## Resolve the dependencies again into requirements/cpu.lock
	@scripts/lock $(ARGS)

clean: ## Remove caches and what set-up made, but not runs/
	rm -rf .venv .setup .models .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
