"""The papers' data sets by name: ``table`` says what exists, a module a family reads it from its own on-disk format.

Imported where a name is used (``load_dataset``, ``load_retrieval``, ``load_texts``), so that nothing here is loaded
for a folder of photos.
"""
