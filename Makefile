# Each target does its own set-up: on a fresh machine `make run` or `make test` is all there is to type.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
QUICK := tests/test_rooms.py tests/test_codec.py tests/test_founding_fault.py tests/checks tests/reprod/test_shrink.py \
	tests/fuzz/gate/test_gate_comparison.py tests/serving/test_policies.py tests/fuzz/gate/test_gate_rules.py

VERSIONS ?= lowest-direct
TESTS ?= $(QUICK)

.PHONY: run quick test test-all check fault benchmark versions clean

run: $(READY)  ## the fixed backend on TP2 and TP4: MI355X, fp8, AITER 2026-06, all that sglang's contexts and graphs hold
	$(BIN)/aiterfuzz run --backend sglang-27188 --shapes tp2,tp4 --archs gfx950 --q-dtype fp8 --kv-dtype fp8 --releases 2026-06 \
		--max-kv-len 163840 --max-batch 512 --cases 20000

quick: $(READY)  ## within a minute: rooms, checks, the path, shrinking, the gate's rules; nothing of the machine
	$(BIN)/python -m pytest -n auto $(QUICK)

test: $(READY)  ## a test of each kind, on every core: what each change runs
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: $(READY)  ## the slow tests too, which sweep, soak and search: what each night runs
	AITERFUZZ_SLOW=1 $(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)  ## style, types and the rooms' import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_rooms.py

fault: $(READY)  ## the historic fault of sglang#27188: found, shrunk, explained (exits 1, as a finding does)
	$(BIN)/aiterfuzz run --backend sglang-before-27188 --shapes tp2

benchmark: $(READY)  ## the figures that README quotes
	$(BIN)/python -m benchmarks.model
	$(BIN)/python -m benchmarks.machine
	$(BIN)/python -m benchmarks.campaign

# TORCH=torch==2.13.0 pins PyTorch to a CPU build where the newest would come with CUDA, and leaves everything else to VERSIONS.
versions:  ## the tests (TESTS=tests for all) with VERSIONS=lowest-direct, the bounds of pyproject.toml, or VERSIONS=highest
	rm -rf build/versions && $(PYTHON) -m venv build/versions
	build/versions/bin/python -m pip install uv
	echo $(TORCH) > build/versions/pinned.txt
	build/versions/bin/uv pip compile --quiet pyproject.toml --extra dev --resolution $(VERSIONS) -c build/versions/pinned.txt \
		-o build/versions/resolved.txt
	build/versions/bin/python -m pip install -c build/versions/resolved.txt torch
	build/versions/bin/python -m pip install -c build/versions/resolved.txt -e '.[dev]'
	build/versions/bin/python -m pytest -n auto $(TESTS)

clean:
	rm -rf $(VENV) build dist *.egg-info findings

# torch goes first and pinned: see constraints.txt.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aiterfuzz needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; give one: make PYTHON=python3.12")'
	@echo "setting up $(VENV), once: PyTorch (200 MB from its CPU index, 5 GB from PyPI: README says how), then the rest"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
