"""A spec such as ``folder:PATH`` -> Dataset: pictures that are drawn, found in folders and tars, or known by name."""
