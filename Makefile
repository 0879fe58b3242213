PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('qgbench needs Python 3.11 or newer' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

# The main job on embedded data: a base method, its quality-guided twin, and the table that compares them.
demo: install
	$(BIN)/qgbench run --protocol smoke --method fixmatch --arch unet --output runs/demo
	$(BIN)/qgbench run --protocol smoke --method fixmatch --qg --arch unet --output runs/demo
	$(BIN)/qgbench report runs/demo --output runs/demo/report
	@sed -n '1,40p' runs/demo/report/report.md

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/demo
