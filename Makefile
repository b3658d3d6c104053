# Two commands do everything on a fresh machine:
#   make demo    install, start the server, place one real WebRTC call to it, and say what it heard
#   make test    install, and pass the tests
# Both stand on `make setup`, which fills .venv and repeats itself only when the pins change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Of the server that is soaked; 0: one process does everything.
FRONT_ENDS ?= 0
# Without a GPU, PyTorch's CPU build saves gigabytes; where the index offers none, pip says so.
TORCH  ?= torch==2.13.0

# What pip is at, a line a package, so that no minute is silent.
PIP_INSTALL = $(BIN)/pip install --disable-pip-version-check --no-input -c constraints.txt
PROGRESS    = awk '/^ *(Collecting|Downloading|Building|Installing|Successfully|ERROR)/ { print substr($$0, 1, 100); fflush() }'

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: setup demo serve test soak lint check clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v.major}.{v.minor}; say make PYTHON=python3.12 ...")'
	@echo "[1/3] making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] installing PyTorch ($(TORCH)); this is the largest download"
	@$(PIP_INSTALL) "$(TORCH)" | $(PROGRESS)
	@echo "[3/3] installing voice-agent with the demo, NeMo (the tests' reference) and the test tools"
	@$(PIP_INSTALL) -e '.[dev]' | $(PROGRESS)
	@touch $@

demo: setup
	@$(BIN)/voice-agent demo

serve: setup
	@$(BIN)/voice-agent serve

test: setup
	@# A process that crashes ends the run: with a second one in its place, xdist waits for ever.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart=0

soak: setup
	@$(BIN)/python -m tests.soak --front-ends $(FRONT_ENDS)

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) build dist *.egg-info
