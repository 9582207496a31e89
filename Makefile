# make demo and make test are all a fresh machine needs; both make the environment first.
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
STAMP := $(VENV)/.installed

.PHONY: setup demo test check broker-test generated clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/offnominal demo

test: setup
	$(PYTEST) --numprocesses 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The broker's contract and the main job from end to end, on the broker at OFFNOMINAL_TEST_BOOTSTRAP.
broker-test: setup
	$(PYTEST) --numprocesses 2 tests/contracts/test_stream.py tests/consumers/test_kafka_python.py tests/test_end_to_end.py

# Files in the repository that are generated from the code; tests hold them to it.
generated: setup
	$(BIN)/python -m detector.reference > configs/reference.yaml
	$(BIN)/python -m detector.alerts > docs/alert.schema.json

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
