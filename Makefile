# make demo: the main job on real data.  make test: the tests.  Both set up all they need in .venv.
# make test-long: the tests that take long: Ray, a browser, Prometheus under load, every benchmark once.
# make package: the built wheel in fresh environments, by nox: each Python, oldest and newest dependencies, each extra.
# make proof: the long ones, for a quiet machine: an outage under load, and memory in a real container (root, cgroups).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-long check bench proof docs package picture schemas lock clean

demo: $(READY)
	$(BIN)/mlguard demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long" --cov --cov-report=term-missing:skip-covered --cov-fail-under=95

test-long: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)
	$(BIN)/python -m benchmarks

proof: $(READY)
	$(BIN)/python -m benchmarks.proof
	$(BIN)/python -m benchmarks.proof.metrics
	$(BIN)/python -m benchmarks.proof.events
	$(BIN)/python -m benchmarks.proof.query
	$(BIN)/python -m benchmarks.memory_proof --page docs/memory.md --json docs/memory.json --plot docs/memory.svg

docs: $(READY)
	$(BIN)/python -m zensical build --clean --strict

package: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nox

picture: $(READY)
	$(BIN)/mlguard demo --picture docs/demo.svg

schemas: $(READY)
	$(BIN)/python -m mlguard.policies.schema > schemas/policy.schema.json.new
	$(BIN)/python -m mlguard.monitor.event > schemas/event.schema.json.new
	mv schemas/policy.schema.json.new schemas/policy.schema.json
	mv schemas/event.schema.json.new schemas/event.schema.json
	for name in Completion Digits Document Flower Message Patient Photo Query Transaction; do \
		$(BIN)/mlguard schema export schemas:$$name \
			--output schemas/$$(echo $$name | tr A-Z a-z).schema.json || exit 1; \
	done

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 --generate-hashes --quiet --no-emit-package mlguard --output-file requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
		{ echo "mlguard needs Python 3.11 to 3.13. Fix: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage dist build
