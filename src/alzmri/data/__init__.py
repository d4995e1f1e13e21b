"""Collections on disk: validation, subjects, similarity, splits, packing."""
