# What is done with this repository. Each target sets up what it needs first: on a fresh Debian 12, `make test` is enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IN_LAB := $(BIN)/python -m tests.lab.namespace $(BIN)/python -m
COVERED := certagent.pki,certagent.lifecycle,certagent.store
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# tests start certagent hundreds of times: compiled once, not each time
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup packages venv test unit check format docs demo needed bench scale servers providers hosts kills coverage simulate explore mutants lock fuzz clean root

help: ## Show this.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages venv ## Install what is missing: Debian packages (by apt; sudo where not root), Python packages into .venv.

packages:
	@tests/setup/debian.sh python demo lab
	@tests/setup/unpack.sh exim opensmtpd sendmail
	@tests/setup/optional.sh "OpenSMTPD 7" tests/setup/unpack.sh opensmtpd7
	@tests/setup/optional.sh "nginx" tests/setup/unpack.sh nginx
	@tests/setup/optional.sh "Pebble 2.10" tests/setup/unpack.sh pebble2
	@tests/setup/optional.sh "Dovecot 2.4" tests/setup/newer.sh
	@tests/setup/optional.sh "Exim with OpenSSL" tests/setup/exim-openssl.sh

venv: $(VENV)/.complete

# Made anew where the Python below it has gone: then this is a link to nothing.
$(BIN)/python:
	@tests/setup/debian.sh python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}: 3.11 or newer is needed; make PYTHON=/path/to/python3 …")'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What certagent itself needs: this is enough for the demo. (-qq: errors only)
$(VENV)/.runtime: $(BIN)/python requirements.lock
	@echo "installing certagent's Python packages into $(VENV)"
	@$(BIN)/pip install -qq --require-hashes --only-binary :all: --requirement requirements.lock
	@touch $@

# What tests and checks need besides, and certagent as an installed package.
$(VENV)/.complete: $(VENV)/.runtime requirements-dev.lock pyproject.toml
	@echo "installing the Python packages of tests and checks into $(VENV)"
	@$(BIN)/pip install -qq --require-hashes --only-binary :all: --requirement requirements-dev.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@$(BIN)/pip check --quiet
	@touch $@

test: root setup ## Run all tests, those on real servers included; needs root for its namespaces.
	@$(BIN)/python -m tests.setup.run

unit: venv ## Run the tests that need neither root nor servers.
	@$(BIN)/python -m tests.setup.run --no-servers

check: venv ## Check style, types and the direction of imports.
	@status=0; \
	for tool in "ruff check" "ruff format --check" "pyright --pythonpath $(BIN)/python" "lint-imports --no-logo"; do \
	  echo "---- $$tool"; $(BIN)/$$tool || status=1; \
	done; exit $$status

format: venv ## Bring the code into its form.
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: venv ## Write the parts of the documentation that are made from the code.
	@$(BIN)/python docs/generate.py

demo: root needed $(VENV)/.runtime ## Show the main job on real servers, in a minute; needs root.
	@$(IN_LAB) tests.demo

needed:
	@tests/setup/debian.sh python demo

bench: root setup ## Measure an issuance beside certbot, lego and uacme, DNS updates beside nsupdate, commands; needs root.
	@tests/setup/debian.sh bench
	@$(BIN)/python -m tests.bench.startup
	@$(BIN)/python -m tests.bench.renew
	@$(BIN)/python -m tests.bench.dns

scale: venv ## Measure what many certificates and many TLSA names cost, and how the journal grows.
	@$(BIN)/python -m tests.bench.scale
	@$(BIN)/python -m tests.bench.scale names
	@$(BIN)/python -m tests.bench.growth

servers: root setup ## Roll keys on every kind of mail server under new TLS connections without a pause; needs root.
	@$(BIN)/python -m pytest -p no:cacheprovider -s tests/e2e/test_servers.py

providers: root setup ## Roll a key through each kind of DNS provider, while a sender that wants DANE mails; needs root.
	@CERTAGENT_PROVIDERS=all $(BIN)/python -m pytest -p no:cacheprovider -s tests/e2e/test_provider_rolls.py
	@$(BIN)/python -m tests.dns.observed

hosts: root setup ## Set up mail hosts as guides and panels publish them, follow `certagent init`, print what came of it; needs root.
	@CERTAGENT_HOSTS=all $(BIN)/python -m pytest -p no:cacheprovider -s tests/e2e/test_hosts.py

kills: root setup ## Kill rolls on real servers a hundred times: at every step boundary and at random instants; needs root.
	@CERTAGENT_KILLS=100 $(BIN)/python -m pytest -p no:cacheprovider -s tests/e2e/test_crash.py tests/e2e/test_faults.py

simulate: venv ## Run N simulated histories of a hostile world (N=20000) from seed FROM on (0), or replay one (SEED=…).
	@$(BIN)/python -m tests.simulation.simulate $(if $(SEED),SEED=$(SEED),N=$(or $(N),20000) FROM=$(or $(FROM),0))

explore: venv ## Every place of a few events in the smallest simulated worlds, for TIME seconds (600) or STATES of each.
	@$(BIN)/python -m tests.simulation.explore TIME=$(or $(TIME),$(if $(STATES),1000000,600)) $(if $(STATES),STATES=$(STATES)) $(if $(WORLD),WORLD="$(WORLD)")

mutants: venv ## Break the engine on purpose, one mutant at a time; the simulation must catch each.
	@$(BIN)/python -m tests.simulation.mutants N=$(or $(N),12000) $(if $(EXPLORE),EXPLORE=$(EXPLORE))

fuzz: venv ## Give each parser odd bytes FOR so many seconds (20), drawn from SEED (any); only certagent's errors may come out.
	@$(BIN)/python -m tests.fuzz.run $(if $(FOR),FOR=$(FOR)) $(if $(SEED),SEED=$(SEED))

# only what always runs alike: no simulated histories, and nothing that Hypothesis draws
coverage: root venv ## Branch coverage of the core and the store by their own tests: 100 %, or it fails; needs root to give files away.
	@$(BIN)/python -m coverage run --branch --source=$(COVERED) -m pytest -p no:cacheprovider -m "not hypothesis" \
	  tests/pki tests/lifecycle tests/store
	@$(BIN)/python -m coverage report --show-missing --fail-under=100

lock: ## Lock the newest releases of all dependencies, with hashes.
	@PYTHON="$(PYTHON)" tests/setup/lock.sh

clean: ## Remove what these targets made here; installed Debian packages stay.
	@rm -rf $(VENV) .lab build dist *.egg-info .coverage* .hypothesis .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

root:
	@[[ $$(id -u) == 0 ]] || { echo "error: this runs real servers in namespaces of their own, which needs root: use 'sudo make $(MAKECMDGOALS)'" >&2; \
	  echo "hint: 'make setup', 'make unit' (the tests without servers) and 'make check' do not need root" >&2; exit 2; }
