"""Long inversions: a plan, shards that are written whole or not at all, resuming, and Ray past one machine."""
