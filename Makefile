# The verbs of the project; `make check` is exactly what CI runs.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
# cpu | gpu | gpu-cuda12: which ONNX Runtime wheel is installed.
EXTRA ?= cpu
CONFIG ?= config.yaml
# Of `make test`.
PROCESSES ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
# constraints.txt has the onnxruntime-gpu for CUDA 13; the extra for CUDA 12 names an older one.
EXCEPT := $(if $(filter gpu-cuda12,$(EXTRA)),onnxruntime-gpu==,none of them)
READY := $(VENV)/.ready-$(EXTRA)
DEV_READY := $(VENV)/.ready-$(EXTRA)-dev

BENCH := .venv-bench
BENCH_READY := $(BENCH)/.ready
FUZZ := .venv-fuzz
FUZZ_READY := $(FUZZ)/.ready
PAGE := .venv-page
PAGE_READY := $(PAGE)/.ready
PACKAGE := .venv-package
PACKAGE_READY := $(PACKAGE)/.ready
CLIENTS := .venv-clients
CLIENTS_READY := $(CLIENTS)/.ready
GATEWAY := .venv-gateway
GATEWAY_READY := $(GATEWAY)/.ready
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready
DEPLOY := .venv-deploy
OPENVINO := .venv-openvino
OPENVINO_READY := $(OPENVINO)/.ready
DEPLOY_READY := $(DEPLOY)/.ready
SCALE := .venv-scale
SCALE_READY := $(SCALE)/.ready
AUDIT := .venv-audit
PARITY := .venv-parity
PARITY_READY := $(PARITY)/.ready
TYPES := .venv-types

.PHONY: install serve test test-clients test-deploy test-docs test-image test-openvino test-package test-page test-scale docs reference \
	check format lint types imports bench bench-quick configs golden parity zoo variants tokenizers types-new types-try fuzz fuzz-quick \
	pictures audit clean

install: $(READY)

serve: $(READY)
	$(BIN)/nerve serve --config $(CONFIG)

# In two processes, each file in one of them: many tests wait for a server. TESTS=tests/http names some.
test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile $(TESTS)

# The clients of other servers, unchanged and as their makers publish them, against running servers; the programs on
# their pages in docs/guide/clients; and nerve.integrations with the libraries that it is for.
test-clients: $(DEV_READY) $(CLIENTS_READY) $(GATEWAY_READY)
	NERVE_PYTHON=$(abspath $(BIN)/python) NERVE_GATEWAY_PYTHON=$(abspath $(GATEWAY)/bin/python) \
		NERVE_NODE_MODULES=$(abspath $(CLIENTS)/node_modules) \
		$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --rootdir=tests/clients tests/clients

# The Helm chart and its relatives, by Helm's library, Kubernetes' schemas, policies and random values.
test-deploy: $(DEV_READY) $(DEPLOY_READY)
	NERVE_PYTHON=$(abspath $(BIN)/python) NERVE_NODE_MODULES=$(abspath $(DEPLOY)/node_modules) \
		$(DEPLOY)/bin/python -m pytest -c tests/kubernetes/pytest.ini --rootdir=tests/kubernetes tests/kubernetes

# The image, built by docker or podman and started: hardened, as SageMaker does, and as the chart's pod. Where none can be
# built (no engine, no registry of base images) the tests say so and are skipped. NERVE_TEST_IMAGE: one that is there.
test-image: $(DEV_READY) $(DEPLOY_READY)
	engine="$(NERVE_TEST_ENGINE)"; test -n "$$engine" || engine=$$(deploy/docker/engine.sh) || true; \
	export NERVE_TEST_ENGINE="$$engine" ENGINE="$$engine"; \
	image="$(NERVE_TEST_IMAGE)"; \
	test -n "$$image" || { test -n "$$engine" && RUN=0 BAKE=config.yaml deploy/docker/build-and-run.sh && image=nerve:cpu; } \
		|| echo "no image could be built, see above; what needs one is skipped"; \
	nginx="$(NERVE_TEST_NGINX_IMAGE)"; \
	test -n "$$nginx" || { test -n "$$engine" && tests/kubernetes/build_nginx.sh nerve-nginx:test && nginx=nerve-nginx:test; } \
		|| echo "no image of Nginx could be built, see above; the test of the side-car is skipped"; \
	export NERVE_TEST_IMAGE="$$image" NERVE_TEST_BAKED_IMAGE="$(or $(NERVE_TEST_BAKED_IMAGE),$$image)" NERVE_TEST_NGINX_IMAGE="$$nginx"; \
	$(BIN)/python -m pytest tests/deploy/test_image.py && NERVE_PYTHON=$(abspath $(BIN)/python) \
		$(DEPLOY)/bin/python -m pytest -c tests/kubernetes/pytest.ini --rootdir=tests/kubernetes tests/kubernetes/test_container.py

# bfloat16 on the CPU, with OpenVINO; skipped where the CPU has no instructions for it.
test-openvino: $(OPENVINO_READY)
	$(OPENVINO)/bin/python -m pytest tests/runtime/test_openvino.py

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
	$(PARITY)/bin/python tests/parity/record_whole.py
	$(PARITY)/bin/python tests/parity/compare_tokenizers.py --record --characters 0

# Draws configs of every built family at random, and compares with transformers: about ten minutes.
configs: $(PARITY_READY)
	OMP_NUM_THREADS=1 $(PARITY)/bin/python tests/parity/fuzz_configs.py --each 60 --out tests/parity/configs.json

# Recomputes the golden answers live and compares, and tests `nerve export` against PyTorch. CHECKPOINTS: folders whose
# tokenizers are compared, too.
parity: $(PARITY_READY)
	OMP_NUM_THREADS=1 $(PARITY)/bin/python tests/parity/record.py "$$($(PARITY)/bin/nerve pull)" --check
	$(PARITY)/bin/python tests/parity/compare_tokenizers.py $(CHECKPOINTS)
	$(PARITY)/bin/python -m pytest tests/parity/test_export.py

# The zoo of tests/zoo: checkpoints as those that people serve, with transformers' answers.
zoo: $(PARITY_READY)
	$(PARITY)/bin/python -m pip install --quiet sentencepiece==0.2.3 tiktoken==0.14.0
	rm -rf tests/zoo/.made
	$(PARITY)/bin/python tests/zoo/make_zoo.py tests/zoo/zoo.json tests/zoo/.made
	$(PARITY)/bin/python tests/zoo/pack.py tests/zoo/.made tests/zoo/zoo.tar.xz

# Variants of the zoo's checkpoints, some 85: made, and tried from folders and by name.
variants: $(PARITY_READY) $(DEV_READY)
	$(PARITY)/bin/python -m pip install --quiet sentencepiece==0.2.3 tiktoken==0.14.0
	rm -rf tests/zoo/.variants
	$(PARITY)/bin/python tests/zoo/variants.py tests/zoo/.variants
	NERVE_VARIANTS=$(abspath tests/zoo/.variants) $(BIN)/python -m pytest tests/zoo/test_variants.py
	$(PARITY)/bin/python tests/zoo/variants.py tests/zoo/.variants --pack

# Tokenizers made from vocabularies against transformers': the zoo's and the small ones, a million random characters
# each. About twenty minutes; the result is committed.
tokenizers: $(PARITY_READY)
	$(PARITY)/bin/python -m pip install --quiet sentencepiece==0.2.3 tiktoken==0.14.0
	test -d tests/zoo/.made/models || { mkdir -p tests/zoo/.made && tar -xf tests/zoo/zoo.tar.xz -C tests/zoo/.made; }
	$(PARITY)/bin/python tests/parity/compare_tokenizers.py tests/zoo/.made/models --out tests/parity/tokenizers.json

# Compares the list of token-classification types that docs/explanation/architectures.md goes by with the newest release.
types-new:
	test -x $(TYPES)/bin/python || $(PYTHON) -m venv $(TYPES)
	$(TYPES)/bin/python -m pip install --quiet --upgrade transformers
	$(TYPES)/bin/python tests/parity/record_types.py

# Tries `nerve export` with a tiny model of each type that tests/parity/types.json calls exported or untried.
types-try: $(PARITY_READY)
	$(PARITY)/bin/python tests/parity/try_types.py

# Looks for bodies and headers that end in a 5xx, a crash or a hang, for some minutes: by the OpenAPI document
# against running servers, then by bytes.
# `make fuzz-quick`: some of it, the same each time, in a minute.
fuzz: $(DEV_READY) $(FUZZ_READY)
	$(BIN)/python tests/fuzz/run.py $(FUZZ)/bin/schemathesis
	$(BIN)/python -m pytest --hypothesis-profile=fuzz tests/end_to_end/test_fuzz.py

fuzz-quick: $(DEV_READY) $(FUZZ_READY)
	$(BIN)/python tests/fuzz/run.py $(FUZZ)/bin/schemathesis --quick --examples 10

# The pages in a real browser: Chromium (Debian: chromium, fonts-noto-core), or what NERVE_TEST_BROWSER names. Where
# there is none, the tests say so and are skipped. `make pictures` takes those of docs/images again.
test-page: $(PAGE_READY)
	$(PAGE)/bin/python -m pytest tests/pages

# The wheel and the sdist: built, looked at, installed with pip, uvx and pipx into new environments, and run there.
test-package: $(PACKAGE_READY)
	$(PACKAGE)/bin/python -m pytest -c tests/package/pytest.ini --rootdir=tests/package tests/package

pictures: $(PAGE_READY)
	$(PAGE)/bin/python tests/pages/take_pictures.py

# Parquet, Ray (a cluster of two nodes on this machine) and Spark (needs a Java runtime). SCALE_ARGS: of pytest. Phone
# numbers are tested here, too: their library is an extra.
test-scale: $(SCALE_READY)
	bash tests/scale/run.sh $(SCALE)/bin/python $(SCALE_ARGS)
	$(SCALE)/bin/python -m pytest -q tests/text/test_phones.py

# Every command of README, of docs/guide and docs/api, as its reader types it; what the pages print is compared.
test-docs: $(DEV_READY)
	$(BIN)/python -m pytest -c tests/guide/pytest.ini --rootdir=tests/guide tests/guide

# The documentation as a site, into site/ (open site/index.html): a page that no navigation names, a link or an anchor
# that leads nowhere, and what looks otherwise than on GitHub are errors.
docs: $(READY) $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	$(BIN)/python docs/site/reference.py --openapi site/reference/openapi.json

# The pages of docs/reference, from the code.
reference: $(READY)
	$(BIN)/python docs/site/reference.py

# Known weaknesses of what is installed, by PyPI's database; needs its JSON interface, which mirrors seldom have.
# AUDIT_ARGS="--vulnerability-service osv" asks osv.dev instead. What cannot be looked up is an error.
audit: $(READY)
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet 'pip-audit>=2.9,<3'; }
	$(BIN)/python -m pip freeze --all --exclude-editable > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off \
		--requirement $(AUDIT)/installed.txt $(AUDIT_ARGS)

clean:
	rm -rf $(VENV) $(PACKAGE) $(PARITY) $(BENCH) $(FUZZ) $(CLIENTS) $(GATEWAY) $(DEPLOY) $(PAGE) $(DOCS) $(SCALE) $(AUDIT) $(TYPES) \
		$(OPENVINO) site

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nerve needs Python 3.11, 3.12 or 3.13 on PATH, or PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip uninstall --quiet --yes setuptools 2>/dev/null # Python 3.11 brings one with known weaknesses
	grep -v '^$(EXCEPT)' constraints.txt >$(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[$(EXTRA)]'
	@touch $@

$(DEV_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --group dev
	@touch $@

$(FUZZ_READY): Makefile
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet 'schemathesis>=4.32,<5' msgspec
	@touch $@

$(PAGE_READY): pyproject.toml constraints.txt
	test -x $(PAGE)/bin/python || $(PYTHON) -m venv $(PAGE)
	$(PAGE)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PAGE)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]' --group dev
	$(PAGE)/bin/python -m pip install --quiet 'playwright>=1.60,<2' 'axe-playwright-python>=0.1.8,<0.2'
	@touch $@

$(DOCS_READY): docs/site/requirements.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement docs/site/requirements.txt
	@touch $@

$(PACKAGE_READY): Makefile
	test -x $(PACKAGE)/bin/python || $(PYTHON) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python -m pip install --quiet 'build>=1.3,<2' httpx 'mypy>=1.18' 'pipx>=1.7,<2' pytest pytest-timeout \
		trove-classifiers 'twine>=6.1,<7' 'uv>=0.9,<1'
	@touch $@

$(SCALE_READY): pyproject.toml constraints.txt
	test -x $(SCALE)/bin/python || $(PYTHON) -m venv $(SCALE)
	$(SCALE)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(SCALE)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,parquet,phone,ray]' --group dev
	$(SCALE)/bin/python -m pip install --quiet 'ray[serve]' pandas 'pyspark>=3.5'
	@touch $@

# NeMo brings fastembed, which wants an old huggingface_hub and which no test uses; the newest is installed over it.
# npm is optional: without it the test of huggingface.js is skipped, with its reason.
$(CLIENTS_READY): tests/clients/requirements.txt pyproject.toml
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --requirement tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --editable '.[cpu,presidio,spacy]'
	$(CLIENTS)/bin/python -m pip install --quiet --upgrade 'huggingface_hub>=2.4'
	command -v npm >/dev/null && npm install --silent --no-audit --no-fund --prefix $(CLIENTS) @huggingface/inference@4 || true
	@touch $@

# LiteLLM's gateway pins versions that the clients do not want.
$(GATEWAY_READY): Makefile
	test -x $(GATEWAY)/bin/python || $(PYTHON) -m venv $(GATEWAY)
	$(GATEWAY)/bin/python -m pip install --quiet 'litellm[proxy]>=1.108'
	@touch $@

# checkov and npm are optional: without them their tests are skipped, with the reason.
$(DEPLOY_READY): tests/kubernetes/requirements.txt
	test -x $(DEPLOY)/bin/python || $(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --quiet --requirement tests/kubernetes/requirements.txt
	$(DEPLOY)/bin/python -m pip install --quiet 'checkov>=3.3,<4' || true
	command -v npm >/dev/null && npm install --silent --no-audit --no-fund --prefix $(DEPLOY) \
		@kubernetes-models/keda@0.4 @kubernetes-models/prometheus-operator@6 @kubernetes-models/gateway-api@0.5 || true
	@touch $@

$(OPENVINO_READY): pyproject.toml constraints.txt
	test -x $(OPENVINO)/bin/python || $(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(OPENVINO)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,openvino]' --group dev
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
