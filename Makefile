# The verbs of the project; `make check` is exactly what CI runs.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
# cpu | gpu: which ONNX Runtime wheel is installed.
EXTRA ?= cpu
CONFIG ?= config.yaml
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
DEV_READY := $(VENV)/.ready-$(EXTRA)-dev

BENCH := .venv-bench
BENCH_READY := $(BENCH)/.ready
FUZZ := .venv-fuzz
FUZZ_READY := $(FUZZ)/.ready
AUDIT := .venv-audit
PARITY := .venv-parity
PARITY_READY := $(PARITY)/.ready
TYPES := .venv-types

.PHONY: install serve test check format lint types types-new imports bench bench-quick golden parity fuzz audit clean

install: $(READY)

serve: $(READY)
	$(BIN)/nerve serve --config $(CONFIG)

test: $(DEV_READY)
	$(BIN)/python -m pytest

check: lint types imports test

format: $(DEV_READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV_READY)
	$(BIN)/mypy

imports: $(DEV_READY)
	$(BIN)/lint-imports

# Side by side with the peers, into bench/results/local-*.json: about 50 minutes on an idle machine. Where it was cut
# off it goes on. `make bench-quick` needs no PyTorch and takes ten minutes.
bench: $(BENCH_READY)
	$(BENCH)/bin/python -m pip install --quiet torch==2.13.0
	$(BENCH)/bin/python -m pip install --quiet --requirement bench/requirements-torch.txt
	$(BENCH)/bin/python -m bench.serving.run --set goals --out local-goals $(BENCH_ARGS)
	$(BENCH)/bin/python -m bench.serving.run --set rest --out local-rest $(BENCH_ARGS)
	$(BENCH)/bin/python -m bench.serving.stages --out bench/results/local-stages.json
	$(BENCH)/bin/python -m bench.serving.render --stages bench/results/local-stages.json \
		bench/results/local-goals.json bench/results/local-rest.json

bench-quick: $(BENCH_READY)
	$(BENCH)/bin/python -m bench.serving.run --set quick --fresh --out local-quick $(BENCH_ARGS)
	$(BENCH)/bin/python -m bench.serving.render bench/results/local-quick.json

# Golden answers: recorded from transformers in an environment of its own; the tests need neither it nor PyTorch.
golden: $(PARITY_READY)
	OMP_NUM_THREADS=1 $(PARITY)/bin/python tests/parity/record.py "$$($(PARITY)/bin/nerve pull)"
	OMP_NUM_THREADS=1 $(PARITY)/bin/python tests/parity/record_long.py "$$($(PARITY)/bin/nerve pull)"
	$(PARITY)/bin/python tests/parity/record_architectures.py

# Recomputes the golden answers live and compares, and tests `nerve export` against PyTorch.
parity: $(PARITY_READY)
	OMP_NUM_THREADS=1 $(PARITY)/bin/python tests/parity/record.py "$$($(PARITY)/bin/nerve pull)" --check
	$(PARITY)/bin/python -m pytest tests/parity/test_export.py

# Compares the list of token-classification types that docs/explanation/architectures.md goes by with the newest release.
types-new:
	test -x $(TYPES)/bin/python || $(PYTHON) -m venv $(TYPES)
	$(TYPES)/bin/python -m pip install --quiet --upgrade transformers
	$(TYPES)/bin/python tests/parity/record_types.py

# Looks for bodies and headers that end in a 5xx, a crash or a hang, for some minutes: by the OpenAPI document
# against running servers, then by bytes.
fuzz: $(DEV_READY) $(FUZZ_READY)
	$(BIN)/python tests/fuzz/run.py $(FUZZ)/bin/schemathesis
	$(BIN)/python -m pytest --hypothesis-profile=fuzz tests/end_to_end/test_fuzz.py

# Known weaknesses of what is installed, by PyPI's database; needs its JSON interface, which mirrors seldom have.
# AUDIT_ARGS="--vulnerability-service osv" asks osv.dev instead. What cannot be looked up is an error.
audit: $(READY)
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet 'pip-audit>=2.9,<3'; }
	$(BIN)/python -m pip freeze --all --exclude-editable > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off \
		--requirement $(AUDIT)/installed.txt $(AUDIT_ARGS)

clean:
	rm -rf $(VENV) $(PARITY) $(BENCH) $(FUZZ) $(AUDIT) $(TYPES)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nerve needs Python 3.11, 3.12 or 3.13 on PATH, or PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip uninstall --quiet --yes setuptools 2>/dev/null # Python 3.11 brings one with known weaknesses
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	@touch $@

$(DEV_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	@touch $@

$(FUZZ_READY): Makefile
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet 'schemathesis>=4.32,<5' msgspec
	@touch $@

$(PARITY_READY): pyproject.toml constraints.txt
	test -x $(PARITY)/bin/python || $(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PARITY)/bin/python -m pip install --quiet torch==2.13.0
	$(PARITY)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,export]' --group dev
	@touch $@

$(BENCH_READY): pyproject.toml constraints.txt bench/requirements.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BENCH)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]' --requirement bench/requirements.txt
	@touch $@
