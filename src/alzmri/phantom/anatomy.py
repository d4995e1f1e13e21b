"""One simulated subject: the stage of atrophy and all other differences between heads.

A stage changes what radiologists grade: wide ventricles, wide sulci, thin cortex, a wide rim of
cerebrospinal fluid (CSF), and dark white matter around the ventricles. From Non to Moderate
Demented, the ventricles are on average 0.056, 0.075, 0.089 and 0.102 of the brain's area (in the
public collection 0.058, 0.074, 0.092 and 0.094), and all dark tissue is 0.195, 0.237, 0.269 and
0.303 of it (0.198, 0.238, 0.271 and 0.280).

Between subjects of one class the ventricles vary by 0.02 to 0.03 in reality and by 0.006 here: real
classes overlap so much that unseen subjects could hardly be classified. The separation of the
classes is exaggerated on purpose.
"""

from typing import NamedTuple

import numpy as np

from alzmri.phantom.exact import ExactRandom, Floats, bspline_along


class Lattice(NamedTuple):
    """A smooth random field over the head: cubic B-splines with knots (..., Y, X, Z) ``spacing`` mm
    apart."""

    spacing: float
    knots: Floats


_HEAD = (192, 160, 36)
"""Extent of the lattices along y, x, z, mm: the range of slices."""

FOLD_STEP = 2.5
"""Sampling of the folding fields, mm."""
_FOLD_EXTENT = 200
FOLD_CENTRE = _FOLD_EXTENT / FOLD_STEP / 2
"""Sample of the folding fields at the centre of the brain."""


class SimulatedSubject:
    """Everything about one subject that every slice shares. Lengths in mm, intensities with white
    matter near 1."""

    def __init__(self, stage_of_class: int, difficulty: float, random: ExactRandom) -> None:
        """Draw a subject of the class at ``stage_of_class``.

        ``difficulty`` is the standard deviation of the subjects' latent stage around their class,
        in classes: with 0 all are at the centre, with 0.5 a third is nearer to a neighbouring
        class.
        """
        stage = min(max(stage_of_class + difficulty * random.normal(), -0.5), 3.5)

        def vary(mean: float, sd: float) -> float:
            return mean + sd * random.normal()

        def trait(base: float, per_stage: float, sd: float, least: float = 0) -> float:
            """A quantity that changes with the stage and differs between subjects."""
            return max(least, vary(base + per_stage * stage, sd))

        # Outward shift of the ventricles' wall from the template's. More of it at the frontal horns
        # than at the occipital, and on the right than on the left, as fractions.
        self.ventricle = trait(1.85, 1.1, 0.22, least=0.2)
        self.ventricle_front = vary(0, 0.12)
        self.ventricle_right = vary(0, 0.12)
        self.sulcus = trait(0.45, 0.09, 0.03, least=0.05)  # half the width of a sulcus
        self.cortex = trait(3.0, -0.15, 0.06, least=1.6)  # its thickness
        self.rim = trait(0.6, 0.12, 0.1, least=0.1)  # width of the CSF over the convexity
        # Darkening of the white matter at the ventricles' wall, as a fraction of its intensity.
        self.leukoaraiosis = trait(0.03, 0.06, 0.02)
        self.scale_x = 0.958 * vary(1, 0.012)
        self.scale_y = 0.948 * vary(1, 0.012)
        self.roll = vary(0, 0.025)  # rotation within the slice, radians
        self.slope_x = vary(0, 0.02)  # tilt of the slice's plane: mm up per mm to the right
        self.slope_y = vary(0, 0.05)  # and per mm to the front
        self.shift_x, self.shift_y, self.shift_z = vary(0, 0.6), vary(-16.5, 1.2), vary(0, 1)
        self.csf, self.grey, self.white = vary(0.115, 0.02), vary(0.56, 0.035), vary(0.92, 0.03)
        self.gain = vary(1, 0.05)
        self.noise = 0.016 * (0.7 + 0.6 * random.uniform())  # standard deviation of the scanner's
        # Coefficients of the receive field: x, y, x², y², xy, z, in units of half the brain.
        self.bias = [vary(0, sd) for sd in (0.05, 0.05, 0.06, 0.06, 0.04, 0.04)]
        self.fold_scale = vary(1, 0.06)  # size of the gyri relative to the average
        # Displacement (3, Y, X, Z) of the template, mm, coarse and fine.
        self.warps = [_lattice(random, 36, 4.0, 3), _lattice(random, 16, 1.8, 3)]
        # Field (Y, X, Z) of standard deviation 1, higher where sulci are deep and wide.
        self.sulcal_depth = _lattice(random, 24, 1.0)
        # Random fields (X, Y, Z, 2) whose zero surfaces are the primary and secondary sulci.
        self.folds = np.stack([_folding(random, 11.0), _folding(random, 8.0)], axis=-1)


def _lattice(random: ExactRandom, spacing: int, sd: float, *components: int) -> Lattice:
    # A cubic spline needs four knots for its last cell.
    shape = [extent // spacing + 4 for extent in _HEAD]
    return Lattice(spacing, random.normals(*components, *shape) * np.float32(sd))


def _folding(random: ExactRandom, wavelength: float) -> Floats:
    """A random field (X, Y, Z) over ``_FOLD_EXTENT`` mm with knots ``wavelength`` mm apart."""
    knots = int(_FOLD_EXTENT / wavelength) + 5
    field = random.normals(knots, knots, knots)
    for axis in range(3):
        field = bspline_along(field, axis, int(_FOLD_EXTENT / FOLD_STEP), wavelength / FOLD_STEP)
    return field
