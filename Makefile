PYTHON ?= python3
VENV ?= .venv
PINNED ?= requirements/pinned.txt
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# tools/dist_train.sh reads a PYTHON of its own.
unexport PYTHON

# RECORD=1 writes the outcome of a lane to README.md.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal \
	$(if $(RECORD),--record $@)

.PHONY: demo test test-all test-zoo test-original test-floor test-exports \
	test-demo speed lint docs install install-tests clean

demo: install
	$(PY) tools/demo.py

# Every promise once, about 8 minutes on two cores.
test: install-tests
	$(PYTEST) -m 'not slow and not zoo'

# Also trainings, resuming, several processes and exports, about 25 minutes.
test-all: install-tests
	$(PYTEST) -m 'not zoo'

# Every config trained, a stock config per architecture of the frameworks,
# every backbone exported, learning runs, over an hour.
test-zoo: install-tests
	$(PYTEST) -m zoo

# All but the zoo on the original OpenMMLab line.
test-original:
	$(MAKE) test-all VENV=.venv-original PINNED=requirements/original.txt

# The fast tests on the oldest supported versions.
test-floor:
	$(MAKE) test VENV=.venv-floor PINNED=requirements/floor.txt

lint: install-tests docs
	$(PY) -m ruff check .
	git ls-files '*.py' | xargs -P 2 -n 40 $(PY) -m yapf --diff
	$(PY) -m mypy
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .

# The site: build/docs/index.html.
docs: $(VENV)/.installed
	$(PIP) -r requirements/docs.txt
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs

# Exports every backbone at full depth, in about an hour; writes docs/export.md.
test-exports: install-tests
	OMP_NUM_THREADS=1 $(PY) -W ignore tools/export_table.py

# The first table of docs/speed.md, in about 15 minutes on a quiet machine.
speed: install
	$(PY) -W ignore tools/benchmark.py --page docs/speed.md --only rates backbones

# The demo with three seeds; writes README.md and .github/demo.png.
test-demo: install-tests
	$(PY) -W ignore tools/demo_table.py

install: $(VENV)/.installed

install-tests: $(VENV)/.installed-tests

$(VENV)/.installed: setup.py pyproject.toml $(PINNED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mmhier needs Python >= 3.10: run make PYTHON=python3.11, or so")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and OpenMMLab into $(VENV) (about two minutes) ..."
	$(PIP) -r $(PINNED)
# pip may have cached an mmcv whose operators were compiled for another torch.
	$(PIP) --no-deps --force-reinstall --no-cache-dir $$(grep -E '^(onedl-mmcv|mmcv-lite)=' $(PINNED))
# opencv-python, which mmcv asks for, needs a graphical system; this one, over
# the same files, does not.
	$(PIP) --no-deps --force-reinstall $$(grep headless $(PINNED))
	$(PIP) --no-deps --editable .
	$(PY) -m mmhier.ops install
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed requirements/tests.txt requirements/docs.txt
	$(PIP) -r requirements/tests.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
