"""Exact retrieval for galleries of millions: ``retrieval`` ranks by counting, ``cells`` counts, ``pairs`` says what is
relevant, ``gallery`` reads features that lie in a file."""
