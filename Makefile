PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# mmcv is built without its compiled operators; a wheel that pip cached may
# hold operators of another torch, so the cache is not asked for it.
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: demo test install install-tests clean

demo: install
	$(PY) tools/demo.py

test: install-tests
	$(PY) -m pytest

install: $(VENV)/.installed

install-tests: $(VENV)/.installed-tests

$(VENV)/.installed: setup.py pyproject.toml requirements/pinned.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mmhier needs Python >= 3.10: run make PYTHON=python3.11, or so")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and OpenMMLab into $(VENV) (about two minutes) ..."
	$(PIP) -r requirements/pinned.txt --no-binary=none
	$(PIP) --no-deps --editable .
	$(PY) -m mmhier.ops install
	touch $@

$(VENV)/.installed-tests: $(VENV)/.installed requirements/tests.txt
	$(PIP) -r requirements/tests.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
