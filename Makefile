# Two commands for everybody: `make figures` and `make test`. Both make .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
export CROSSGAP_HEADLESS ?= 1
# Where it is set, each notebook's kernel compiles torch and all other packages anew: 20 seconds each.
unexport PYTHONDONTWRITEBYTECODE
# Tests run side by side, one process a core: with one thread each, they don't wait for each other.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q -n auto

.PHONY: figures publish test lint library unit slow fuzz faults notebooks browser lab format clean scale

figures: $(VENV)/.installed
	$(RUN)/crossgap figures --jobs 2

# Pictures, verdicts and scoreboard of README, from a run of everything on this machine.
publish: figures
	$(RUN)/python -m crossgap_lib.runner.publish

# Every notebook that takes vectors, on a pair file of 200 000 rows: memory (4 GB at most) and time of each.
scale: $(VENV)/.installed
	$(RUN)/python tests/scale.py

# All stages run, whatever one of them finds, and the whole fails at the end.
test:
	$(MAKE) --keep-going lint library notebooks browser

lint: $(VENV)/.installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports

# `unit` and `slow` in one run: a core that is done takes over what waits for the other.
library: $(VENV)/.installed
	$(SIDE_BY_SIDE) --dist worksteal -rs --ignore=tests/test_browser.py

unit: $(VENV)/.installed
	$(SIDE_BY_SIDE) --dist worksteal -m "not slow" --ignore=tests/test_browser.py

# Real architectures with random weights, processes that are killed, a Ray cluster.
slow: $(VENV)/.installed
	$(SIDE_BY_SIDE) --dist worksteal -rs -m slow --ignore=tests/test_browser.py

# Mutated files for every reader, until it is stopped; what it finds lies in .cache/fuzz/found.
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN)/python -X faulthandler tests/fuzz.py

# SIGKILL at a hundred random moments; each run goes on until it ends, with the same bytes.
faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(RUN)/python -W ignore tests/faults.py

# nbval runs every cell of every notebook; the figures of that run go to a scratch folder.
notebooks: $(VENV)/.installed
	CROSSGAP_FIGURES=$(CURDIR)/.cache/nbval $(SIDE_BY_SIDE) --dist loadfile --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=600 notebooks

browser: $(VENV)/.installed
	sh tests/install_chromium.sh
	$(RUN)/python -m pytest -q -rs tests/test_browser.py

# The fast tests on each Python that is supported and that this machine has, as pythonX.Y or in pyenv.
PYTHONS := 3.11 3.12 3.13
pythons:
	@failed=; for version in $(PYTHONS); do \
		found=; for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			$$python -c "import venv" 2>/dev/null && found=$$python && break; done; \
		if [ -z "$$found" ]; then echo "SKIPPED: this machine has no Python $$version"; continue; fi; \
		echo "Python $$version: $$found"; \
		$(MAKE) unit VENV=$(VENV)/python$$version PYTHON=$$found || failed="$$failed $$version"; done; \
	[ -z "$$failed" ] || { echo "failed on Python$$failed"; exit 1; }

# The fast tests with the oldest packages that pyproject.toml allows, on this Python. torch 2.6 takes 6 GB.
oldest:
	test -x $(VENV)/oldest/bin/uv || { $(PYTHON) -m venv $(VENV)/oldest && $(VENV)/oldest/bin/python -m pip install uv; }
	$(VENV)/oldest/bin/uv pip install --python $(VENV)/oldest/bin/python --resolution lowest-direct -e '.[dev]'
	touch $(VENV)/oldest/.installed
	$(MAKE) unit VENV=$(VENV)/oldest

# data/licences.md, after a change of constraints.txt.
licences: $(VENV)/.installed
	$(RUN)/python tests/licences.py

# Notebooks are saved when somebody asks for it: a run alone leaves no outputs in them.
lab: $(VENV)/.installed
	mkdir -p $(VENV)/share/jupyter/lab/settings
	echo '{"@jupyterlab/docmanager-extension:plugin": {"autosave": false}}' > $(VENV)/share/jupyter/lab/settings/overrides.json
	env -u CROSSGAP_HEADLESS $(RUN)/jupyter lab notebooks

format: $(VENV)/.installed
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) .cache

# --no-compile: most modules of the packages are never imported, and those that are get compiled then.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
