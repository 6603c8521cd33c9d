# The README's commands. Everything is set up in .venv; `make` again does nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: workers share the machine's cores.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo cluster test test-local test-all chaos lint docs bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable ".[local,operator,huggingface,tensorboard,s3]" --group test --group lint
	touch $@

demo: setup
	$(BIN)/concertina run manifests/01-minimal.yaml

# A Kubernetes and its tools for the tests, outside the checkout: a quarter of an hour the first time.
cluster: setup
	$(BIN)/python -m tests.cluster.build
	$(BIN)/python -m tests.images base

test: setup cluster
	$(BIN)/pytest -m "not matrix"

# Without a Kubernetes.
test-local: setup
	$(BIN)/pytest -m "not matrix and not cluster"

test-all: setup cluster
	$(BIN)/pytest

# Breaks local runs at random, and judges each: hours. CHAOS_FLAGS="--where kubelet": on a node.
CHAOS_FLAGS ?= --runs 300
chaos: setup cluster
	$(BIN)/python -m tests.chaos $(CHAOS_FLAGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Into build/docs.
docs: setup
	$(BIN)/python -m docs.reference
	$(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

bench: setup cluster
	for bench in resize_pause step_overhead checkpoint_blocking schedule resize_on_kubelet operator_failover \
		operator_scale operator_scale_peer recovery goodput snapshot_overhead; do \
		$(BIN)/python tests/bench/$$bench.py $(BENCH_FLAGS) || exit 1; done

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
