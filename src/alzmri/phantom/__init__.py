"""Simulated axial T1-weighted brain slices at four stages of Alzheimer's disease.

The anatomy of the MNI152 template, with a subject's own shape, folding and scanner, and a graded
atrophy. These are no patients: the separation of the classes is exaggerated.
"""

from alzmri.phantom.collection import generate

__all__ = ["generate"]
