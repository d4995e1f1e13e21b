"""A collection of the slices of volumes: those that predict would show the model."""

import re
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
from typer.testing import CliRunner

from alzmri.cli import app
from alzmri.data import class_folders
from alzmri.data.images import decode
from alzmri.inference import ventricles, volumes

TEMPLATE = Path(nilearn.__file__).parent / (
    "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
)


def test_slices_of_volumes(tmp_path: Path, untracked: Path) -> None:
    image = nib.as_closest_canonical(nib.load(TEMPLATE)).slicer[::2, ::2, ::2]  # of 2 mm
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    source, kept = tmp_path / "study", {}
    for number, place in enumerate(("CN/sub-01/anat/sub-01_T1w.nii", "AD/sub-02.mgz")):
        path = source / place
        path.parent.mkdir(parents=True)
        kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
        darker = np.rint(255 * (voxels / 255) ** (1 + number / 4)).astype(np.uint8)
        nib.save(kind(darker, image.affine), path)
        kept[place] = ventricles.choose(volumes.read(path), 3)
    (source / "AD" / "broken.nii").write_bytes(b"no volume")
    (source / "AD" / "photo.jpg").write_bytes(b"no volume")
    arguments = ["data", "slices", str(source), "--name", "mine", "--slices", "3"]
    done = CliRunner().invoke(app, [*arguments, "--classes", "CN,AD", "--max-rejected", "0.2"])
    assert done.exit_code == 0, (done.output, done.exception)
    said = " ".join(done.output.split())
    assert "2 subjects known by BIDS names such as sub-02" in said
    assert re.search(r"not imported: 1 x .*AD/broken\.nii", said)
    mine = untracked / "data" / "mine"
    found = class_folders.read(mine).entries
    for entry in found:
        path, (origin,) = entry.path, entry.origins
        depth = re.fullmatch(r".*/(?:sub-01_T1w|sub-02)_(\d+)mm\.png", origin)
        assert depth, origin
        (chosen,) = (
            item
            for item in kept["CN/sub-01/anat/sub-01_T1w.nii" if "CN" in path else "AD/sub-02.mgz"]
            if item.depth == int(depth[1])
        )
        assert np.array_equal(decode(mine / path).pixels, chosen.pixels)
    assert len(found) == 6
