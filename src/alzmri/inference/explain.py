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

from alzmri import terminal
from alzmri.data.images import Pixels
from alzmri.errors import require
from alzmri.files import write_bytes, write_csv
from alzmri.inference import NOTICE
from alzmri.inference.predictor import PredictionReport, Predictor
from alzmri.models.forward import BATCH_SIZE, normalise
from alzmri.models.validation import Floats

Maps = NDArray[np.float32]

INDEX = "index.csv"
_HEADER = ("overlay", "map", "of", "path", "class", "probability", "distribution", "notice")
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
    """Write an overlay (PNG) and a raw map (NPY) per slice and subject, and their ``index.csv``.

    ``target`` is the class to show evidence for; None takes the most probable class of each slice,
    and of each subject's mean over the slices in distribution. Returns the number of pictures.
    """
    rows: list[tuple[object, ...]] = []
    predictor, found = report.predictor, report.prediction
    pixels, about = np.stack([item.pixels for item in report.slices]), PngInfo()
    about.add_text("Description", NOTICE)

    def add(
        of: str, name: str, chances: Floats, image: Pixels, evidence: Maps, inside: bool = True
    ) -> None:
        label = int(chances.argmax()) if target is None else target
        stem = f"{len(rows) + 1:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(name).name)}"
        map_file, picture = io.BytesIO(), io.BytesIO()
        Image.fromarray(overlay(image, evidence)).save(picture, "PNG", pnginfo=about)
        np.save(map_file, evidence)
        write_bytes(directory / f"{stem}.png", picture.getvalue())
        write_bytes(directory / f"{stem}.npy", map_file.getvalue())
        said = predictor.classes[label], f"{chances[label]:.6f}"
        place = ("in" if inside else "out of") + " distribution"
        rows.append((f"{stem}.png", f"{stem}.npy", of, name, *said, place, NOTICE))
        progress(len(rows), len(report.slices) + len(report.subjects))

    with terminal.progress("writing") as progress:
        best = found.probabilities.argmax(axis=1)
        maps = grad_cam(predictor, pixels, best if target is None else np.full_like(best, target))
        for n, item in enumerate(report.slices):
            name = item.source if item.depth is None else f"{item.source}-{item.depth}mm"
            inside = bool(found.in_distribution[n])
            add("slice", name, found.probabilities[n], pixels[n], maps[n], inside)
        for subject in report.subjects:
            if (mean := subject.probabilities) is not None:
                own = pixels[list(subject.members)]
                label = int(mean.argmax()) if target is None else target
                average = np.rint(own.mean(axis=0)).astype(np.uint8)
                evidence = grad_cam(predictor, own, np.full(len(own), label)).mean(axis=0)
                add("subject", subject.name, mean, average, evidence)
    write_csv(directory / INDEX, _HEADER, rows)
    return len(rows)
