"""Studies that the documentation reports: honest, protocol."""
