"""Notebooks -> figures and the site that shows them; ``bench`` and ``doctor``."""
