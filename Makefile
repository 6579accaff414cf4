# `make help` lists everything. `run`, `test` and `check` need Python 3.11 alone; the Docker targets need Docker.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
PY := $(VENV)/bin/python
DATA := $(or $(MAIL_DATA_DIR),var)
# An exact name first: `python3` may be any version, and 3.13 has no wheel of the embedded Redis.
PYTHON ?= $(shell for p in python3.11 python3 python3.12; do \
  "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo "docker compose" || echo docker-compose)

# `make up smtp`, `make refresh smtp`, `make logs web`: further words name services.
SERVICE_NAMES := web smtp imap worker beat postgres redis
SERVICES := $(filter $(SERVICE_NAMES),$(MAKECMDGOALS))
.PHONY: $(SERVICE_NAMES)
$(SERVICE_NAMES):
	@:

##@ On this machine
.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.installed ## Start the whole system here (demo profile); Ctrl-C ends it
	@exec $(PY) manage.py runall

.PHONY: install
install: $(VENV)/.installed ## Make the environment and install what running needs

.PHONY: seed
seed: $(VENV)/.installed ## Make the demo's data and API key, as `make run` does
	@$(PY) manage.py migrate --verbosity 0
	@$(PY) manage.py seed

.PHONY: migrate
migrate: $(VENV)/.installed ## Bring the database up to date (in Docker, `make up` does it)
	@$(PY) manage.py migrate

.PHONY: stop
stop: ## End `make run`, or stop the containers (some: make stop smtp)
	@if [ -z "$(SERVICES)" ] && [ -s $(DATA)/run/runall.pid ]; then $(PY) manage.py runall --stop; \
	else $(COMPOSE) stop $(SERVICES); fi

.PHONY: logs
logs: ## Follow the logs of `make run`, or of the containers (some: make logs smtp)
	@if [ -s $(DATA)/run/runall.pid ]; then \
	  tail -n 50 -F $(foreach name,$(or $(SERVICES),web smtp worker beat redis),$(DATA)/log/$(name).log); \
	else $(COMPOSE) logs -f $(SERVICES); fi

.PHONY: clean
clean: ## Remove environment, caches, containers and image; data (var/, Docker's volumes) stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if docker info >/dev/null 2>&1; then $(COMPOSE) down --rmi local --remove-orphans; fi

##@ Tests
.PHONY: test
test: $(VENV)/.installed-dev ## Run the tests; pip is all they need, and what is skipped is listed
	@$(PY) -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

.PHONY: test-bench
test-bench: $(VENV)/.installed-dev ## Run each benchmark as small as it gets, one after the other
	@$(PY) -m pytest -n 0 -m load $(ARGS)

.PHONY: check
check: $(VENV)/.installed-dev ## Style, types, import rules, migrations, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) scripts/lint_imports.py
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(ARGS)

.PHONY: test-deps
test-deps: ## Install with apt what tests and benchmarks use if it is there (Postfix, swaks, …)
	@scripts/test-deps

.PHONY: bench
bench: $(VENV)/.installed-dev ## Measure acceptance and relay beside Postfix
	@$(PY) -m bench $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.installed-dev ## Kill processes at random under load, and count what was lost
	@$(PY) -m chaos $(ARGS)

.PHONY: lock
lock: $(VENV)/.installed-dev ## Pin requirements*.in into requirements*.txt, with hashes
	$(PY) -m uv pip compile --quiet --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	$(PY) -m uv pip compile --quiet --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt

##@ In Docker (production profile; a service's name may follow: make up smtp)
.PHONY: up
up: .env ## Start the containers
	$(COMPOSE) up -d $(SERVICES)

.PHONY: down
down: ## Stop and remove the containers
	$(COMPOSE) down $(SERVICES)

.PHONY: build
build: .env ## Build the image
	$(COMPOSE) build $(SERVICES)

.PHONY: refresh
refresh: .env ## Build the image anew and start the containers from it
	$(COMPOSE) build --pull --no-cache $(SERVICES)
	$(COMPOSE) up -d --force-recreate $(SERVICES)

.PHONY: clear-cache-view
clear-cache-view: ## Start the containers again as they are
	$(COMPOSE) restart $(SERVICES)

.PHONY: shell
shell: ## A shell in the web container (another: make shell smtp)
	$(COMPOSE) exec $(or $(SERVICES),web) /bin/sh

# --- files

# The secrets that docker-compose.yml demands, made once. The demo reads the same file and takes no harm.
.env:
	@umask 077 && cp .env.example .env && { \
	  echo "SECRET_KEY=$$(head -c 48 /dev/urandom | base64 | tr -d '\n/+=')"; \
	  echo "POSTGRES_PASSWORD=$$(head -c 24 /dev/urandom | base64 | tr -d '\n/+=')"; } >> .env
	@echo "Made .env with a fresh SECRET_KEY and POSTGRES_PASSWORD."

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "mailproj needs Python 3.11 or 3.12: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv is missing (Debian: apt install python3-venv)." >&2; exit 1; }

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing requirements-dev.txt …"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-binary dkimpy -r requirements-dev.txt
	@touch $@
