"""A spec such as ``mini-clip`` -> DualEncoder: open_clip, timm and local folders behind one interface."""
