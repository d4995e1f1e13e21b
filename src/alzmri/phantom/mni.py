"""The MNI152 template that nilearn ships, and the anatomical maps derived from it.

ICBM 2009a nonlinear symmetric, 1 mm, skull stripped, uint8 (Fonov et al., NeuroImage 54, 2011).
All lengths are in millimetres, which are voxels; (x, y, z) is right, front, up from the anterior
commissure. The maps cover only the part of the head that slices can reach.
"""

import hashlib
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alzmri.errors import EnvironmentFault
from alzmri.phantom import exact
from alzmri.phantom.exact import Volume

_CROP = (slice(22, 175), slice(23, 212), slice(40, 124))
"""Part of the published template: the brain with a margin; z from -32 to 51 mm."""
SHAPE = (153, 189, 84)
ORIGIN = (98 - 22, 134 - 23, 72 - 40)
"""Voxel of (0, 0, 0) mm within the crop."""
_DIGEST = "79197a4e816fe769af4e19e1f4964dc9965936606e35813a8a6afa06ff95b70c"
"""SHA-256 of the three volumes' voxels: another template would give a seed other images."""

_FAR = 30.0
"""Maximum distance in the maps, mm; nothing depends on larger ones."""

_X, _Y, _Z = np.ogrid[tuple(slice(-o, n - o) for o, n in zip(ORIGIN, SHAPE, strict=True))]
"""Coordinates of the crop's voxels in mm."""

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Maps(NamedTuple):
    """The maps for rendering, as float32 channels of shape (X, Y, Z, channel)."""

    motion: NDArray[np.float32]
    """Displacement (x, y, z) of the tissue per mm of ventricular widening, then the signed distance
    to the template's ventricle wall in mm, negative inside."""
    tissue: NDArray[np.float32]
    """Intensity (CSF 0.1, grey 0.6, white 1), weight of the template's own deep structures in
    [0, 1], distance in mm to a sulcus of the template, depth in mm below the hull of the brain
    (negative outside), distance to the ventricle wall as above."""


def prepare_maps() -> Maps:
    """Derive the maps from the template: about four seconds, the same bytes everywhere."""
    t1, grey, white = _load()
    brain = ndimage.binary_fill_holes(t1 > 0)
    ventricles = _ventricles(t1, grey, white, brain)
    wall = _distance_to(ventricles) - _distance_to(~ventricles)
    hull = brain | (exact.box_blur(brain * 1000, 3) > 470)
    fixed = t1.astype(np.int32) * 16
    sharp = fixed + (fixed - exact.box_blur(fixed, 1)) * 12 // 10
    sharp = sharp.astype(np.float32) / np.float32(16)
    # The sheets of CSF that the average brain shows, and that of the midline.
    fissure = (np.abs(_X) < 1) & ((_Y > 40) | (_Y < -62) | (_Z > 34))
    sulci = (brain & (wall > 4) & (sharp < 136)) | (hull & (wall > 8) & fissure)
    # Depth below the hull; the lowest and highest planes of the crop are no surface.
    deep = int(_FAR)
    below = _distance_to(~np.pad(hull, ((0, 0), (0, 0), (deep, deep)), mode="edge"))
    tissue = [
        exact.piecewise_linear(sharp, _TISSUE_OF_T1),
        _deep_zone(wall),
        np.minimum(_distance_to(sulci), _FAR),
        np.where(hull, below[:, :, deep:-deep], -_distance_to(hull)),
        wall,
    ]
    motion = [*_wall_motion(wall), wall]
    return Maps(np.stack(motion, -1, dtype=np.float32), np.stack(tissue, -1, dtype=np.float32))


_TISSUE_OF_T1 = [
    (60, 0.08), (88, 0.10), (130, 0.30), (162, 0.56),
    (176, 0.64), (196, 0.76), (212, 0.93), (228, 1.0),
]  # fmt: skip
"""Sharpened intensity of the average brain to tissue: CSF 0.1, grey 0.6, white 1."""


def _load() -> list[Bytes]:
    """The T1, grey-matter and white-matter volumes in nilearn's wheel; nilearn is not imported."""
    import nibabel  # slow to import
    from nibabel.filebasedimages import ImageFileError

    nib: Any = nibabel
    try:
        folder = metadata.distribution("nilearn").locate_file("nilearn/datasets/data")
        volumes: list[Any] = []
        for name in ("t1", "gm", "wm"):
            image = nib.load(f"{folder}/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
            volumes.append(np.ascontiguousarray(image.dataobj))
        if hashlib.sha256(b"".join(volumes)).hexdigest() != _DIGEST:
            raise ValueError("it has changed, so a seed would give other images")
    except (ImportError, OSError, EOFError, ValueError, ImageFileError) as error:
        raise EnvironmentFault(
            f"no MNI152 template in nilearn: {error}; run `pip install -r requirements.txt`"
        ) from None
    return [volume[_CROP] for volume in volumes]


def _distance_to(mask: Mask) -> Volume:
    """Distance in mm to the nearest voxel of ``mask``; roots of integers are exact."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~mask)
    return distance.astype(np.float32)


_VENTRICLE_SEEDS = (
    (14, 26, 4), (-14, 26, 4), (14, -8, 24), (-14, -8, 24),
    (26, -46, 10), (-26, -46, 10), (0, -14, 0),
)  # fmt: skip
"""Points (mm) in the frontal horns, bodies and atria, and in the third ventricle."""


def _ventricles(t1: Bytes, grey: Bytes, white: Bytes, brain: Mask) -> Mask:
    """Dark voxels connected to the seeds, with the passages into the cisterns cut."""
    side, y, z = np.abs(_X), _Y, _Z
    dark = brain & (t1 < 134) & (grey < 160) & (white < 110)
    dark &= (side < 42) & (y > -95) & (y < 45) & (z > -20) & (z < 36)
    passages = (
        (side < 12) & (y < -32),  # quadrigeminal cistern
        (side < 6) & (y > 22) & (z < 6),  # interhemispheric fissure below the genu
        (side < 5) & (y > 34),  # interhemispheric fissure before the genu
        (z >= 28) & (side < 8),  # interhemispheric fissure above the corpus callosum
        (z < -2) & (side > 4) & (side < 22),  # basal cisterns
        (z < -2) & (side <= 4) & ((y < -28) | (y > 4)),  # suprasellar, interpeduncular
        (z < -2) & (side >= 22) & ((y > -6) | (y < -52)),  # Sylvian fissure
        (side < 4) & (z >= -2) & (z < 8) & ((y < -30) | (y > 14)),  # before and behind the third
        (side < 6) & (z >= 7) & (y < 2),  # velum interpositum
        (side < 3) & (z >= 4) & (y >= 2),  # septum pellucidum
    )
    for passage in passages:
        dark &= ~passage
    labels, _ = ndimage.label(dark)
    found: set[int] = set()
    for seed in _VENTRICLE_SEEDS:
        centre = [o + s for o, s in zip(ORIGIN, seed, strict=True)]
        found |= set(labels[tuple(slice(c - 2, c + 3) for c in centre)].ravel().tolist())
    return np.isin(labels, sorted(found - {0}))


def _wall_motion(wall: Volume) -> list[Volume]:
    """Displacement (x, y, z) of the tissue per mm of widening.

    The wall moves fully along its outward normal; the motion fades ``_FAR`` away and deep inside,
    at the front and back poles, and mostly at the third ventricle, which widens less.
    """
    smooth = exact.blur_fixed(wall, 2, passes=2, scale=256)
    normal = [exact.central_difference(smooth, axis) for axis in range(3)]
    length = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    fading = np.clip(1 - np.abs(smooth) / np.float32(_FAR), 0, 1)
    amount = np.where(smooth < 0, np.clip((smooth + 7) / np.float32(7), 0, 1), fading * fading)
    poles = np.clip((70 - np.abs(_Y + 10)) / 25, 0, 1)
    third = _ramp(9 - np.abs(_X), 4) * _ramp(12 - _Z, 5) * _ramp(14 - _Y, 6)
    amount = amount / np.maximum(length, 0.35) * (poles * (1 - 0.6 * third)).astype(np.float32)
    return [exact.blur_fixed(part * amount, 1, passes=1, scale=4096) for part in normal]


def _ramp(distance: NDArray[Any], width: float) -> NDArray[np.float64]:
    return np.clip(distance / width, 0, 1)


def _deep_zone(wall: Volume) -> Volume:
    """Weight of the template itself: basal ganglia, thalami, and the ventricles' surroundings.

    The cortex of an average brain is blurred; outside this zone, a folded cortex replaces it.
    """
    centre = np.sqrt((_X / 37) ** 2 + ((_Y + 6) / 46) ** 2 + ((_Z - 4) / 30) ** 2)
    around = _ramp(13 - wall, 5) * np.clip((1.25 - centre) * 8, 0, 1)
    zone = np.maximum(np.clip((1 - centre) * 6, 0, 1), around)
    side = np.abs(_X)
    zone[np.broadcast_to((side < 14) & (_Y < -36) & (_Z > -6), zone.shape)] = 0
    zone[np.broadcast_to((side < 12) & (_Y > 36), zone.shape)] = 0
    return exact.blur_fixed(zone, 1, passes=2, scale=4096)
