PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RESULTS := build/results

.PHONY: demo test lint install results site clean

install: $(STAMP)

# pip's progress is for a terminal: elsewhere it would be thousands of lines.
$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('qgbench needs Python 3.11 or newer' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	@echo "Installing qgbench and what it needs into $(VENV): PyTorch is most of it, some 7 GB, ten minutes or so."
	@[ -t 1 ] || quiet=--quiet; $(BIN)/python -m pip install $$quiet --editable ".[dev]"
	touch $(STAMP)

# The main job on embedded data: a base method, its quality-guided twin, the table that compares them, and the page.
demo: install
	$(BIN)/qgbench run --protocol smoke --method fixmatch --arch unet --output runs/demo
	$(BIN)/qgbench run --protocol smoke --method fixmatch --qg --arch unet --output runs/demo
	$(BIN)/qgbench report runs/demo --output runs/demo/report --html
	@echo "That was FixMatch without and with quality weighting (qw), a few steps each: a comparison works here, and its"
	@echo "numbers mean nothing. docs/start/ goes on with runs that count."

# xdist would begin with the files that hold the most tests, and the long ones, of few tests, would run alone at the end.
test: install
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The report of the records in results/, build/results, which the site shows; with LaTeX at hand, also as one PDF. What
# documents quote of it, and the picture of README, are refreshed.
results: install
	rm -rf $(RESULTS)
	$(BIN)/qgbench report results --suite small --html --no-run-pages --output $(RESULTS)
	if command -v pdflatex > /dev/null; then cd $(RESULTS) && for i in 1 2 3; do \
	  SOURCE_DATE_EPOCH=0 pdflatex -interaction=batchmode -halt-on-error report.tex > /dev/null || exit 1; done; fi
	rm -rf $(RESULTS)/report.aux $(RESULTS)/report.log
	$(BIN)/python docs/refresh.py
	touch $(RESULTS)/.done

# The documentation site, build/site/html: pages of docs/, the reference from the code, the results, made anew where they
# are older than the records. Ends at a link that leads nowhere.
site: install
	[ -f $(RESULTS)/.done ] && [ -z "$$(find results suites/small.toml -newer $(RESULTS)/.done)" ] || $(MAKE) results
	rm -rf build/site
	$(BIN)/python docs/site_pages.py build/site/pages $(RESULTS)
	$(BIN)/python docs/site_reference.py build/site/pages/reference
	$(BIN)/zensical build --strict
	$(BIN)/python docs/site_links.py build/site/html
	@echo "Open build/site/html/index.html; with its search: python -m http.server --directory build/site/html"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy perf docs
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/demo
