# Every target installs what it needs; nothing is expected beyond Debian 12 with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR := $(or $(MESHHOLD_HOME),$(HOME)/.meshhold)

.DEFAULT_GOAL := help
.PHONY: help run install dev test check clients bench format clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  echo "installing Debian's python3-venv (needed once)"; apt-get update -qq && apt-get install -y -qq python3-venv python3-pip && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Install MeshHold into .venv (the program is .venv/bin/meshhold)

dev: $(VENV)/.dev

run: $(VENV)/.installed ## Start a node with a bucket and a key, ready for S3
	@exec $(BIN)/meshhold quickstart --home "$(HOME_DIR)"

test: $(VENV)/.dev ## Run the tests
	@$(BIN)/python -m pytest -m "not clients and not slow"

check: $(VENV)/.dev ## Lint, format, types, floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clients: $(VENV)/.dev ## Run the real S3 clients against a node (installs them)
	@$(BIN)/python -m pytest -m clients tests/clients -v

bench: $(VENV)/.dev ## Measure side by side with SeaweedFS and rclone
	@$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist
