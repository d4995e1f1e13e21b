"""Simulated axial T1-weighted brain slices at four stages of Alzheimer's disease: no patients."""
