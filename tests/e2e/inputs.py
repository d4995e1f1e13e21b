"""Make what the commands of lookups.py take, in a clone: `python tests/e2e/inputs.py`."""

import csv
import shutil
import sys
from pathlib import Path

import nibabel
import nilearn

from alzmri import git
from alzmri.experiments import honest_study, studies

sys.path.append(".")
from tests.clinic.conftest import write_series

shutil.copy(next(Path("data/phantom").rglob("*.jpg")), "one.jpg")
write_series(Path(".dicom/ready/1-waiting"))
(template,) = Path(nilearn.__file__).parent.glob("datasets/data/*_t1_*.nii.gz")
for start, label in enumerate(("Non Demented", "Mild Demented")):
    (volume := Path(f"volumes/{label}/{start}.nii")).parent.mkdir(parents=True)
    nibabel.save(nibabel.load(template).slicer[start::3, ::3, ::3], volume)

# Finished experiments of the studies, which would take a minute: their parameters, and predictions
# of healthy for a third of the subjects in each fold. All else is of the run in the workspace.
here, study = git.head(), Path("study")
with Path("data/prepared/manifest.csv").open() as file:
    labels = {row["subject"]: row["label"] for row in csv.DictReader(file)}
names = {label: "healthy" if label == "Non Demented" else "ill" for label in labels.values()}
rows = [f"{one}.jpg,{one},{names[label]},healthy,0,.6,.4" for one, label in labels.items()]
honest, protocol = (
    studies.asked("phantom", "scaled", scales, 1, [])
    for scales in (honest_study.SCALES, studies.PROTOCOL_SCALES)
)
wanted = [*honest_study.planned(honest, "binary", 3), *studies.protocol_planned(protocol)]
git.run("worktree", "add", "--detach", str(study))
(study / "plots").mkdir()
for number, one in enumerate(wanted):
    (study / "params.yaml").write_text(one.params.model_dump_json())
    table = ["path,subject,actual,predicted,ood,healthy,ill", *rows[number % 3 :: 3]]
    (study / "plots/predictions.csv").write_text("\n".join(table))
    git.run("-C", str(study), "add", "--force", "params.yaml", "plots/predictions.csv")
    git.run("-C", str(study), "commit", "--quiet", "--message", one.name)
    reference = f"refs/exps/{here[:2]}/{here[2:]}/{one.name}"
    git.run("-C", str(study), "update-ref", reference, "HEAD")
