"""Series of experiments that the documentation reports: honest, protocol, fast."""
