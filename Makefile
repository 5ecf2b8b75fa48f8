# One front door for people and CI. A fresh machine needs CPython 3.11 and make; nothing else.
#
#   make demo    trains and serves a small recommender on http://127.0.0.1:8000 (PORT= changes it)
#   make test    runs the tests
#   make bench-serving  measures the server over the loopback, about four minutes
#   make nightly what is too long for every change
#   make check   lint, format and types          make fix    repairs what can be repaired by itself
#   make bench-quality  the table of docs/quality, cell by cell
#   make check-compose  builds and runs docker-compose.yml on the Docker engine at hand, about twenty minutes
#   make env     only the environment            make clean  removes what these commands made
#
# TORCH_INDEX: where torch comes from when it is reached; else pip installs it from wherever pip already looks.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PORT ?= 8000
DEMO ?= .demo
VENV ?= .venv
BIN := $(VENV)/bin
RECORDED := $(BIN)/python -m bench.serving.nightly

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

.DELETE_ON_ERROR:
.PHONY: demo test check fix env env-dev clean bench-quality bench-serving nightly check-compose

demo: $(VENV)/.run
	@$(BIN)/contrec demo --port $(PORT) --folder $(DEMO)

test: $(VENV)/.dev
	@$(BIN)/pytest $(ARGS)

# Each line is one long thing, may be run alone, and leaves a record in bench/serving/results.
nightly: $(VENV)/.dev
	@CONTREC_FUZZ=20000 $(RECORDED) fuzz $(BIN)/pytest tests/service/test_service_fuzz.py tests/service/test_service_schema.py
	@CONTREC_NIGHTLY=1 $(RECORDED) chaos $(BIN)/pytest tests/chaos
	@$(BIN)/python -m bench.serving.soak --minutes 30 --rate 20 --out bench/serving/results/nightly.json
	@if docker info >/dev/null 2>&1; then $(RECORDED) compose $(MAKE) check-compose; else echo "check-compose is left out: no Docker engine answers"; fi

bench-serving: $(VENV)/.dev
	@$(BIN)/python -m bench.serving --out bench/serving/results/latest.json $(ARGS)

# Docker's own CPU and disk decide how long; nothing of it is left behind.
check-compose: $(VENV)/.dev
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers (docker info)" >&2; exit 1; }
	@CONTREC_REQUIRE=compose $(BIN)/pytest tests/compose -v --log-cli-level=INFO $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Computes the cells that are missing (hours for all of them; SETS=, MODELS=, SEEDS= take fewer), then the page.
# `python -m bench.quality tune` comes first on a new set of trials.
bench-quality: $(VENV)/.dev
	@$(BIN)/python -m bench.quality run $(if $(SETS),--sets $(SETS)) $(if $(MODELS),--models $(MODELS)) $(if $(SEEDS),--seeds $(SEEDS))
	@$(BIN)/python -m bench.quality page

fix: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

env: $(VENV)/.run
env-dev: $(VENV)/.dev

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is newer than what it was made from, so that the second run does nothing.

$(VENV)/.torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "contrec needs CPython 3.11 or newer; none was found (set PYTHON=)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "contrec needs CPython 3.11 or newer; $(PYTHON) is older (set PYTHON=)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@sh .ci/install-torch $(BIN)/python "$(TORCH_INDEX)"
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	@echo "installing contrec and what it needs"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[serve,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "installing contrec, what it needs and what its tests need"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[serve,train,dev]'
	@touch $@ $(VENV)/.run
