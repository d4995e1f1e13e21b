"""One simulated subject: the stage of atrophy and all other differences between heads.

A stage changes what radiologists grade: wide ventricles, wide sulci, thin cortex, a wide rim of
cerebrospinal fluid (CSF), and dark white matter around the ventricles. Measured in the same way, as
fractions of the brain's area, the means from Non to Moderate Demented are:

====================  ========================  ========================
                      public collection         here
====================  ========================  ========================
ventricles            0.058 0.074 0.092 0.094   0.056 0.075 0.089 0.102
dark tissue           0.198 0.238 0.271 0.280   0.195 0.237 0.269 0.303
====================  ========================  ========================

Between subjects of one class the ventricles vary by 0.02 to 0.03 in reality and by 0.006 here: real
classes overlap so much that unseen subjects could hardly be classified. The separation of the
classes is exaggerated on purpose.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alzmri.phantom.exact import ExactRandom, bspline_along

_STAGE_RANGE = (-0.5, 3.5)
"""Range of a subject's stage; the classes are at 0, 1, 2, 3."""


class Trait(NamedTuple):
    """A quantity that changes with the stage and differs between subjects."""

    base: float
    per_stage: float
    sd: float
    least: float = 0.0

    def draw(self, stage: float, random: ExactRandom) -> float:
        """The quantity of one subject, never below ``least``."""
        return max(self.least, self.base + self.per_stage * stage + self.sd * random.normal())


VENTRICLE = Trait(base=1.85, per_stage=1.1, sd=0.22, least=0.2)
"""Outward shift of the ventricles' wall from the template's, mm."""
SULCUS = Trait(base=0.45, per_stage=0.09, sd=0.03, least=0.05)
"""Half the width of a sulcus, mm."""
CORTEX = Trait(base=3.0, per_stage=-0.15, sd=0.06, least=1.6)
"""Thickness of the cortex, mm."""
RIM = Trait(base=0.6, per_stage=0.12, sd=0.1, least=0.1)
"""Width of the CSF over the convexity, mm."""
LEUKOARAIOSIS = Trait(base=0.03, per_stage=0.06, sd=0.02)
"""Darkening of the white matter at the ventricles' wall, as a fraction of its intensity."""


class Lattice(NamedTuple):
    """A smooth random field over the head: cubic B-splines with knots (..., Y, X, Z) ``spacing`` mm
    apart."""

    spacing: float
    knots: NDArray[np.float32]


_HEAD = (192, 160, 36)
"""Extent of the lattices along y, x, z, mm: the range of slices."""


@dataclass(frozen=True)
class SimulatedSubject:
    """Everything about one subject that every slice shares. Lengths in mm, intensities with white
    matter near 1."""

    stage: float
    ventricle: float
    ventricle_front: float
    """Additional widening of the frontal horns, and reduced one of the occipital, as a fraction."""
    ventricle_right: float
    """Additional widening on the right, and reduced widening on the left, as a fraction."""
    sulcus: float
    cortex: float
    rim: float
    leukoaraiosis: float
    scale_x: float
    scale_y: float
    roll: float
    """Rotation within the slice, radians; small."""
    slope_x: float
    slope_y: float
    """Tilt of the slice's plane, mm up per mm right and per mm to the front."""
    shift_x: float
    shift_y: float
    shift_z: float
    csf: float
    grey: float
    white: float
    gain: float
    noise: float
    """Standard deviation of the scanner's noise."""
    bias: tuple[float, ...]
    """Coefficients of the receive field: x, y, x², y², xy, z, in units of half the brain."""
    fold_scale: float
    """Size of the gyri relative to the average."""
    warps: tuple[Lattice, ...]
    """Displacement (3, Y, X, Z) of the template, mm, coarse and fine."""
    sulcal_depth: Lattice
    """Field (Y, X, Z) of standard deviation 1, higher where sulci are deep and wide."""
    folds: NDArray[np.float32]
    """Two random fields (X, Y, Z, 2) whose zero surfaces are the sulci, ``FOLD_STEP`` apart."""


FOLD_STEP = 2.5
"""Sampling of the folding fields, mm."""
_FOLD_EXTENT = 200
FOLD_CENTRE = _FOLD_EXTENT / FOLD_STEP / 2
"""Sample of the folding fields at the centre of the brain."""
_FOLD_WAVELENGTHS = (11.0, 8.0)
"""Knot distance of the primary and the secondary folds, mm."""

_WARPS = ((36, 4.0), (16, 1.8))
"""Knot distance and standard deviation of the displacement, mm."""
_DEPTH_SPACING = 24
_BIAS_SD = (0.05, 0.05, 0.06, 0.06, 0.04, 0.04)


def draw_subject(stage_of_class: int, difficulty: float, random: ExactRandom) -> SimulatedSubject:
    """One subject of the class at ``stage_of_class``.

    ``difficulty`` is the standard deviation of the subjects' latent stage around their class, in
    classes: with 0 all are at the centre, with 0.5 a third is nearer to a neighbouring class.
    """
    low, high = _STAGE_RANGE
    stage = min(max(stage_of_class + difficulty * random.normal(), low), high)
    return SimulatedSubject(
        stage=stage,
        ventricle=VENTRICLE.draw(stage, random),
        ventricle_front=0.12 * random.normal(),
        ventricle_right=0.12 * random.normal(),
        sulcus=SULCUS.draw(stage, random),
        cortex=CORTEX.draw(stage, random),
        rim=RIM.draw(stage, random),
        leukoaraiosis=LEUKOARAIOSIS.draw(stage, random),
        scale_x=0.958 * (1 + 0.012 * random.normal()),
        scale_y=0.948 * (1 + 0.012 * random.normal()),
        roll=0.025 * random.normal(),
        slope_x=0.02 * random.normal(),
        slope_y=0.05 * random.normal(),
        shift_x=0.6 * random.normal(),
        shift_y=-16.5 + 1.2 * random.normal(),
        shift_z=1.0 * random.normal(),
        csf=0.115 + 0.02 * random.normal(),
        grey=0.56 + 0.035 * random.normal(),
        white=0.92 + 0.03 * random.normal(),
        gain=1 + 0.05 * random.normal(),
        noise=0.016 * (0.7 + 0.6 * random.uniform()),
        bias=tuple(sd * random.normal() for sd in _BIAS_SD),
        fold_scale=1 + 0.06 * random.normal(),
        warps=tuple(_lattice(random, spacing, sd, 3) for spacing, sd in _WARPS),
        sulcal_depth=_lattice(random, _DEPTH_SPACING, 1.0),
        folds=np.stack([_folding(random, length) for length in _FOLD_WAVELENGTHS], axis=-1),
    )


def _lattice(random: ExactRandom, spacing: int, sd: float, *components: int) -> Lattice:
    # A cubic spline needs four knots for its last cell.
    shape = [extent // spacing + 4 for extent in _HEAD]
    return Lattice(spacing, random.normals(*components, *shape) * np.float32(sd))


def _folding(random: ExactRandom, wavelength: float) -> NDArray[np.float32]:
    """A random field (X, Y, Z) over ``_FOLD_EXTENT`` mm."""
    knots = int(_FOLD_EXTENT / wavelength) + 5
    field = random.normals(knots, knots, knots)
    for axis in range(3):
        field = bspline_along(field, axis, int(_FOLD_EXTENT / FOLD_STEP), wavelength / FOLD_STEP)
    return field
