"""Show where a model looks, by Captum's Grad-CAM (Selvaraju et al., 2017) of its last convolutions.

A map is as coarse as the last feature maps, 3 to 13 cells a side (see the architectures' tables),
and shows where evidence for a class is, not why.
"""

import io
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alzmri.data.images import Pixels
from alzmri.errors import require
from alzmri.files import write_bytes, write_csv
from alzmri.inference import NOTICE
from alzmri.inference.predictor import PredictionReport, Predictor
from alzmri.models.forward import BATCH_SIZE, normalise

Maps = NDArray[np.float32]

INDEX = "index.csv"
_HEADER = ("overlay", "map", "path", "class", "probability", "distribution", "notice")
_OVERLAY_SIDE = 256  # pixels; an overlay is enlarged by a whole number to at least this side
_OPACITY = 0.6  # opacity of the strongest evidence; no evidence is transparent


def grad_cam(predictor: Predictor, slices: Pixels, targets: NDArray[np.int64]) -> Maps:
    """Evidence for class ``targets[i]`` in ``slices[i]``, float32 ``[n, side, side]``, 0 or more.

    ``slices`` is uint8 ``[n, side, side]``. Their unit is a logit's gradient times an activation:
    maps of one model and class can be compared and averaged.
    """
    attr = require("captum.attr", "explain")
    network = predictor.model.network
    cam = attr.LayerGradCam(network, network.features[network.FINEST])
    maps = []
    for start in range(0, len(slices), BATCH_SIZE):
        chosen = slice(start, start + BATCH_SIZE)
        inputs = normalise(torch.from_numpy(slices[chosen])).requires_grad_()
        coarse = cam.attribute(inputs, torch.from_numpy(targets[chosen]), relu_attributions=True)
        fine = attr.LayerAttribution.interpolate(coarse, slices.shape[1:], "bilinear")
        maps.append(fine.squeeze(1).detach().numpy())
    return np.concatenate(maps)


def overlay(pixels: Pixels, evidence: Maps) -> Pixels:
    """The slice in gray with its map in colour, uint8 RGB ``[height, width, 3]``.

    ``pixels`` and ``evidence`` are ``[side, side]``. The colours of a picture end at its own
    strongest evidence: compare maps, not colours of pictures.
    """
    factor = -(-_OVERLAY_SIDE // len(pixels))
    size = (len(pixels) * factor,) * 2
    gray = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    share = cv2.resize(evidence / max(float(evidence.max()), 1e-12), size)
    share = np.clip(share, 0, 1)[:, :, None]
    colours = cv2.applyColorMap(np.rint(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    weight = _OPACITY * share
    mixed: Pixels = np.rint(gray * (1 - weight) + colours * weight).astype(np.uint8)
    return mixed


def write(directory: Path, report: PredictionReport, target: int | None) -> int:
    """Write an overlay (PNG) and a raw map (NPY) of each slice, and their ``index.csv``.

    ``target`` is the class to show evidence for; None takes the most probable class of each slice.
    Returns the number of pictures.
    """
    about = PngInfo()
    about.add_text("Description", NOTICE)
    found, pixels = report.prediction, np.stack([item.pixels for item in report.slices])
    best = found.probabilities.argmax(axis=1)
    labels = best if target is None else np.full_like(best, target)
    maps = grad_cam(report.predictor, pixels, labels)
    rows = []
    for n, (item, label) in enumerate(zip(report.slices, labels.tolist(), strict=True)):
        name = item.source if item.depth is None else f"{item.source}-{item.depth}mm"
        stem = f"{n + 1:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(name).name)}"
        picture, raw = io.BytesIO(), io.BytesIO()
        Image.fromarray(overlay(pixels[n], maps[n])).save(picture, "PNG", pnginfo=about)
        np.save(raw, maps[n])
        write_bytes(directory / f"{stem}.png", picture.getvalue())
        write_bytes(directory / f"{stem}.npy", raw.getvalue())
        said = report.predictor.classes[label], f"{found.probabilities[n, label]:.6f}"
        place = f"{'in' if found.in_distribution[n] else 'out of'} distribution"
        rows.append((f"{stem}.png", f"{stem}.npy", name, *said, place, NOTICE))
    write_csv(directory / INDEX, _HEADER, rows)
    return len(rows)
