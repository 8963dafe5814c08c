PYTHON ?= python3
VENV ?= .venv
PINNED ?= requirements/pinned.txt
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-original test-exports docs install install-tests clean

demo: install
	$(PY) tools/demo.py

test: install-tests
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# The same on the original OpenMMLab line.
test-original:
	$(MAKE) test VENV=.venv-original PINNED=requirements/original.txt

# The site: build/docs/index.html.
docs: $(VENV)/.installed
	$(PIP) -r requirements/docs.txt
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs

# Exports every backbone at full depth, in about an hour; writes docs/export.md.
test-exports: install-tests
	OMP_NUM_THREADS=1 $(PY) -W ignore tools/export_table.py

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
