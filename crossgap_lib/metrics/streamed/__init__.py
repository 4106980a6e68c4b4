"""Exact retrieval from galleries of any size, in a fixed budget of memory."""
