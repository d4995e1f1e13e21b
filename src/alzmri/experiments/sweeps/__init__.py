"""Grids of experiments through DVC's queue."""
