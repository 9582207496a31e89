# make demo and make test are all a fresh machine needs; both make the environment first.
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
STAMP := $(VENV)/.installed
TOOLS := build/tools

.PHONY: setup demo test check broker-test security-test faults-test dashboard-test docs generated lock audit sbom clean

setup: $(STAMP)

# What the product runs on comes by hash first; then torch, of which each index has builds of its own, and what develops.
$(STAMP): pyproject.toml constraints.txt requirements.lock
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/offnominal demo

test: setup
	$(PYTEST) --numprocesses 2 --dist loadgroup

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The broker's contract and the main job from end to end, on the broker at OFFNOMINAL_TEST_BOOTSTRAP.
broker-test: setup
	$(PYTEST) --numprocesses 2 tests/contracts/test_stream.py tests/consumers/test_kafka_python.py tests/test_end_to_end.py

# TLS, SASL and access control on Apache Kafka, which the script at OFFNOMINAL_TEST_KAFKA_START starts.
security-test: setup
	$(PYTEST) tests/security/test_secure_kafka.py

# A handful of faults on running daemons: kill -9, broker and group in trouble, poison. Starts Apache Kafka as above.
faults-test: setup
	$(PYTEST) tests/test_faults.py

# Files in the repository that are generated from the code; tests hold them to it.
generated: setup
	$(BIN)/python -m detector.reference > configs/reference.yaml
	$(BIN)/python -m detector.alerts > docs/alert.schema.json
	$(BIN)/python -m detector.feedback > docs/feedback.schema.json
	$(BIN)/python -m detector.settings_page > docs/settings.md
	$(BIN)/python -m detector.metrics_reference > docs/metrics.md
	$(BIN)/python -m detector.topics_page > docs/topics.md
	$(BIN)/python -m detector.asyncapi > docs/asyncapi.yaml
	$(BIN)/python -m detector.web.openapi > docs/openapi.json
	$(BIN)/typer detector.cli utils docs --name offnominal --title Commands --output docs/commands.md
	$(BIN)/python -m detector.board > deploy/grafana/offnominal.json

# The documentation as a site, in build/site.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The dashboard in a real browser, Debian's Chromium.
dashboard-test: setup
	tests/dashboard/run

# Hashes of all that constraints.txt pins and the product needs. Resolved for a platform where torch brings no drivers.
lock: $(TOOLS)
	MACOSX_DEPLOYMENT_TARGET=14.0 $(TOOLS)/bin/uv pip compile pyproject.toml --constraint constraints.txt --quiet \
	  --generate-hashes --python-version 3.11 --python-platform aarch64-apple-darwin --no-emit-package torch \
	  --extra fast --extra registry --extra s3 --extra notify \
	  --no-annotate --custom-compile-command 'make lock' --output-file requirements.lock

# Known vulnerabilities in all that is pinned. Asks PyPI's advisory service, so it needs the internet.
audit: $(TOOLS)
	$(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt \
	  || { echo 'make audit: a vulnerability was found, or the advisory service did not know a package; see above' >&2; exit 1; }

# The bill of materials of the product, CycloneDX 1.6: what requirements.lock and torch's pin say, by hash.
sbom: $(TOOLS)
	mkdir -p dist
	{ cat requirements.lock; grep '^torch==' constraints.txt; } | $(TOOLS)/bin/cyclonedx-py requirements - \
	  --pyproject pyproject.toml --sv 1.6 --output-reproducible --validate --output-file dist/sbom.cdx.json

$(TOOLS): Makefile
	python3 -m venv --clear $@
	$@/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 cyclonedx-bom==7.5.0 uv==0.13.8
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
