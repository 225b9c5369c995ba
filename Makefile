PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PROTO_VENV := build/proto-venv

.PHONY: help setup demo test test-gpu fuzz bench bench-gpu lint proto wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## make .venv with everything that running and developing need

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: spp needs Python 3.10 or newer; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up .venv (once; takes a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## train and test a small SPP-net on photographs that are there already (minutes)
	tools/demo

test: setup  ## run the tests on all cores
	$(BIN)/python -m pytest -n auto

test-gpu: setup  ## run the tests on a GPU; fails where none works
	SPP_TEST_DEVICE=cuda $(BIN)/python -m pytest

fuzz: setup  ## 10,000 mutated nets, solvers, weights and snapshots: clean errors only (minutes)
	$(BIN)/python tests/support/fuzz.py

bench: setup  ## time nets, layers and input on the CPU, beside what of torch, OpenVINO ... .venv has (an hour)
	$(BIN)/python benchmarks/cpu.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/pipeline.py

bench-gpu: setup  ## time nets and detection on a GPU, beside torch if .venv has it (hours; see --help of the scripts)
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/gpu_detection.py

lint: setup  ## flake8 and mypy
	$(BIN)/flake8
	$(BIN)/mypy

proto:  ## generate spp/proto/caffe_pb2.py and .pyi from caffe.proto
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install -qq --disable-pip-version-check grpcio-tools==1.62.3
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. spp/proto/caffe.proto

wheel: setup  ## build dist/spp-*.whl
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .

clean:  ## remove what the other targets made, except .venv
	rm -rf build dist demo spp.egg-info .pytest_cache .mypy_cache .hypothesis
	find spp tools tests -name __pycache__ -prune -exec rm -rf {} +
