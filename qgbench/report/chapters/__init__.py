"""The report, chapter by chapter, as tables of text and sentences; `qgbench.report.render` writes them."""
