"""Where a model looks: Grad-CAM over its last convolutions.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization" (2017), computed by Captum. A map is as coarse as the last feature maps, 3 to 13
cells a side (see the architectures' tables), and says where evidence for a class was, not why.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from alzmri.data.images import Pixels
from alzmri.inference.extras import require
from alzmri.inference.predictor import Predictor
from alzmri.models.forward import BATCH_SIZE, normalise

Maps = NDArray[np.float32]

OVERLAY_SIDE = 256
"""Pixels: an overlay is enlarged by a whole number to at least this."""
_OPACITY = 0.6
"""Of the strongest evidence; none is transparent."""


def grad_cam(predictor: Predictor, slices: Pixels, targets: NDArray[np.int64]) -> Maps:
    """Evidence for class ``targets[i]`` in ``slices[i]``, float32 ``[n, side, side]``, 0 or more.

    ``slices`` is uint8 ``[n, side, side]``. The unit is that of a logit's gradient times an
    activation: maps of one model and class can be compared and averaged.
    """
    attr = require("captum.attr", "explain")
    network = predictor.model.network
    cam = attr.LayerGradCam(network, network.features[network.FINEST])
    maps = []
    for start in range(0, len(slices), BATCH_SIZE):
        chosen = slice(start, start + BATCH_SIZE)
        inputs = normalise(torch.from_numpy(slices[chosen]))
        target = torch.from_numpy(targets[chosen])
        coarse = cam.attribute(inputs.requires_grad_(), target, relu_attributions=True)
        fine = attr.LayerAttribution.interpolate(coarse, slices.shape[1:], "bilinear")
        maps.append(fine.squeeze(1).detach().numpy())
    return np.concatenate(maps)


def overlay(pixels: Pixels, evidence: Maps) -> Pixels:
    """The slice in gray with its map in colour, uint8 RGB ``[height, width, 3]``.

    ``pixels`` and ``evidence`` are ``[side, side]``. Colours run from none to this map's own
    strongest evidence: they cannot be compared between pictures, the maps themselves can.
    """
    factor = -(-OVERLAY_SIDE // len(pixels))
    size = (len(pixels) * factor,) * 2
    gray = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    share = cv2.resize(evidence / max(float(evidence.max()), 1e-12), size)
    share = np.clip(share, 0, 1)[:, :, None]
    colours = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    weight = _OPACITY * share
    mixed: Pixels = np.rint(gray * (1 - weight) + colours * weight).astype(np.uint8)
    return mixed
