"""Pages that set runs side by side: compare, review."""
