"""Pictures and texts -> Embeddings: unit-norm features with ids and labels, how they are made and kept."""
