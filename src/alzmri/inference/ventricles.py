"""Choose axial slices of a head like those that the model was trained on.

The public collection and the embedded one show skull-stripped T1 slices between the commissures
and the roof of the lateral ventricles, 176 by 208 pixels of 1 mm, the front of the head down. So
this looks for the centre of gravity of the dark area, fluid of the ventricles, at the middle of the
brain, 45 to 85 mm below its top, and takes slices 1 mm apart around 2 mm above it. On the MNI152
template that is 14 mm above the anterior commissure, as in the embedded collection.

The volume must contain the whole top of an adult's head, without the skull, and fluid must be
darker than tissue, as in T1. It does not straighten a tilted head.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alzmri.data.images import Pixels, Unreadable
from alzmri.inference.volumes import Volume

SLICES = 6  # slices of a volume that the model sees
HEIGHT, WIDTH = 208, 176  # field of view of a slice, mm and pixels
BELOW_TOP = (45, 85)  # the ventricles' distance below the top of the brain, mm
ABOVE_CENTRE = 2  # from their centre of gravity to the middle of the chosen slices, mm
MIDDLE = (0.22, 0.36)  # half axes of the ellipse around them, as fractions of brain width, length
BRAIN = 0.15  # brain is brighter than this fraction of the brightest voxels
FLUID = 0.55  # fluid is darker than this fraction of the brain's median
MIN_AREA = 5000  # least area of brain in a slice with ventricles, mm²
BRIGHTEST, LEVEL = 99, 235  # this percentile of the brain becomes this level, as in collections


class ChosenSlice(NamedTuple):
    """One axial slice: mm below the top of the brain, and uint8 ``[HEIGHT, WIDTH]``."""

    depth: int
    pixels: Pixels


def choose(volume: Volume, count: int) -> list[ChosenSlice]:
    """The ``count`` slices around the ventricles, 1 mm apart, lowest first; else `Unreadable`."""
    head = brain(volume)
    levels = np.flatnonzero(head.sum(axis=(0, 1)) >= MIN_AREA)
    if not len(levels):
        raise Unreadable("it shows no head: every axial slice has less than 50 cm² of tissue")
    top = int(np.flatnonzero(head.any(axis=(0, 1)))[-1])
    if top == volume.shape[2] - 1 and head[:, :, top].sum() >= MIN_AREA:
        raise Unreadable("the top of the head is cut off: the ventricles cannot be found from it")
    dark = head & (volume < FLUID * float(np.median(volume[head])))
    candidates = [z for z in levels if BELOW_TOP[0] < top - z <= BELOW_TOP[1]]
    fluid = np.array([(dark[:, :, z] & middle(head[:, :, z])).sum() for z in candidates])
    if not fluid.sum():
        raise Unreadable("no ventricles found: is it a whole head, T1-weighted, skull stripped?")
    centre = float(fluid @ np.array(candidates) / fluid.sum()) + ABOVE_CENTRE
    lowest = round(centre - (count - 1) / 2)
    if lowest < 0 or lowest + count > volume.shape[2]:
        raise Unreadable(f"it has fewer than {count} slices around the ventricles")
    chosen = slice(lowest, lowest + count)
    return [
        ChosenSlice(top - lowest - number, pixels)
        for number, pixels in enumerate(_window(volume[:, :, chosen], head[:, :, chosen]))
    ]


def brain(volume: Volume) -> NDArray[np.bool_]:
    """The mask ``[x, y, z]`` of the largest connected object, with holes within slices filled."""
    positive = volume[volume > 0]
    if not positive.size:
        raise Unreadable("blank: no voxel is above 0")
    parts, _ = ndimage.label(volume > BRAIN * np.percentile(positive, BRIGHTEST))
    largest: NDArray[np.bool_] = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    for z in range(largest.shape[2]):
        largest[:, :, z] = ndimage.binary_fill_holes(largest[:, :, z])
    return largest


def middle(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ellipse around the ventricles in an axial plane ``[x, y]`` of a brain."""
    offsets = []
    for axis, share in enumerate(MIDDLE):
        extent = np.flatnonzero(brain.any(axis=1 - axis))
        centre, length = (extent[0] + extent[-1]) / 2, extent[-1] - extent[0]
        offsets.append((np.arange(brain.shape[axis]) - centre) / (share * max(length, 1)))
    inside: NDArray[np.bool_] = np.add.outer(*map(np.square, offsets)) < 1
    return inside


def _window(planes: Volume, brain: NDArray[np.bool_]) -> list[Pixels]:
    """Turn ``[x, y, n]`` into ``n`` images, the brain at the centre, the front down."""
    spans = [np.flatnonzero(brain.any(axis=axes)) for axes in ((1, 2), (0, 2))]
    centre_x, centre_y = (int(span[0] + span[-1] + 1) // 2 for span in spans)
    # The padding is at least half a window on each side.
    margins = ((WIDTH // 2, WIDTH // 2), (HEIGHT // 2, HEIGHT // 2), (0, 0))
    window = np.pad(planes, margins)[centre_x : centre_x + WIDTH, centre_y : centre_y + HEIGHT]
    scaled = window * (LEVEL / float(np.percentile(planes[brain], BRIGHTEST)))
    levels = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return [np.ascontiguousarray(levels[:, :, number].T) for number in range(levels.shape[2])]
