"""``qgbench regress``: does the code give the numbers that it gave? A few minutes' worth is rerun and compared."""
