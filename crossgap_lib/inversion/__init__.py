"""The heart: OTI and OVI, which learn the input vectors for which a frozen encoder returns a given feature."""
