"""The papers' data sets by name: a table of what exists, and a reader for each family of layouts."""
