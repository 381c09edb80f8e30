# make demo: a LoRA in one to two minutes, with nothing but Python 3.11 or newer.  make test, make check: for developers.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
# With it, each program that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
PIP = $(PY) -m pip install --quiet -c constraints.txt

.PHONY: demo test check torture fuzz bench docs site package clean

demo: $(VENV)/.installed
	$(PY) -m lorasmith demo --output demo

test: $(VENV)/.installed-dev
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

# Interrupts N runs, and counts what is lost. If it is stopped, the same command goes on where it was.
N ?= 200
torture: $(VENV)/.installed-dev
	$(PY) -m tools.torture --count $(N) --folder build/torture

# Gives the program N damaged files and odd command lines.
fuzz: N = 23000
fuzz: $(VENV)/.installed-dev
	$(PY) -m tools.fuzz --count $(N)

# Time and memory of training steps on this machine: make bench BENCH='--base sd1 --against diffusers,peft-compiled'
bench: $(VENV)/.installed-dev
	$(PY) -m lorasmith bench $(BENCH)

docs: $(VENV)/.installed-dev
	$(PY) -m tools.docs
	$(PY) -m tools.foreign
	$(PY) -m tools.package_readme

# The documentation as a site in build/site: warnings are errors, and so is a link that leads nowhere.
site: $(VENV)/.installed-dev
	$(PY) -m tools.site.build build/site

# Builds dist files, and uses the wheel in an environment without the checkout.
package: $(VENV)/.installed-dev
	$(PIP) -e '.[package]'
	$(PY) -m tools.check_package

clean:
	rm -rf $(VENV) build dist demo

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	@echo "Installing into $(VENV); this takes a few minutes."
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(PY)
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed
