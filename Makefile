# Set-up, demo, tests and checks. Needs Python 3.11 or newer, and nothing else installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
OTHER := $(VENV)/transformers-5.5

.PHONY: demo demo-modern test quick check site notebook release browser encoders clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What tests and checks need beside, NudeNet under the AGPL-3.0 among it.
$(DEV): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# An older release of transformers beside the other, with other names for the same weights (tests/test_releases.py).
$(OTHER)/.ready: $(DEV)
	@{ $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(OTHER) \
	     transformers==5.5.0 huggingface_hub==1.32.0 tokenizers==0.22.2 && \
	   $(BIN)/python -m pip install --quiet --upgrade --target $(OTHER) httpx==0.28.1 && touch $@; } || \
	echo "no other release of transformers here: the tests that compare with it will be skipped"

demo: $(READY)  ## unlearn "Tokyo Tower" in the embedded pair and write runs/tokyo-tower/
	$(BIN)/unreel unlearn "Tokyo Tower" --out runs/tokyo-tower --overwrite

demo-modern: $(READY)  ## the same in the second pair, which reads with a real language model (fetched once: 91 MB)
	$(BIN)/unreel fetch smollm2
	$(BIN)/unreel unlearn "Tokyo Tower" --t2v embedded:modern --out runs/tokyo-tower-modern --overwrite

# Tests share the cores, so each takes one thread: more would wait for each other.
test: $(DEV) $(OTHER)/.ready browser encoders  ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

quick: $(DEV)  ## only tests that take no time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quick --numprocesses auto --maxprocesses 4

check: $(DEV)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(DEV)  ## build the documentation site into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebook: $(DEV)  ## make examples/forget.ipynb from examples/forget.py
	$(BIN)/python tools/make_notebook.py

release: $(DEV)  ## build, try what was built, tag
	tools/release.sh

# Tests open pages and the app in headless Chromium (and in Firefox, where it and geckodriver are); without one, and without the right to
# install it, those tests are skipped.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null && \
	  command -v chromedriver >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	echo "no Chromium here: the browser tests will be skipped"

# Two real text encoders, once for all clones (benchmarks/encoders.py); without a network, tests that read with them are skipped.
encoders: $(READY)
	@$(BIN)/python -m benchmarks.encoders || echo "no real encoders here: the tests that read with them will be skipped"

clean:
	rm -rf $(VENV) runs
