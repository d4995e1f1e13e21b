"""``MODEL_CARD.md``: what a stranger must know before they use the weights.

In the spirit of Mitchell et al., "Model cards for model reporting" (2019). Everything in it comes
from the run; it carries no date, so that the same run writes the same card.
"""

from pathlib import Path
from typing import Any

from alzmri.data.prepared import PARTS, Prepared
from alzmri.evaluation.markdown import interval, table
from alzmri.files import write_bytes
from alzmri.models.saved import Card

FEW_SUBJECTS = 10
"""In a class of the test part: with fewer, the card says that its scores say little."""


def write(
    path: Path, trained: Card, prepared: Prepared, metrics: dict[str, Any], alarms: dict[str, Any]
) -> None:
    """Write the card of a model.

    ``metrics`` are its ``models/evaluation.json``, ``alarms`` its ``models/ood.json``.
    """
    sections = (
        *(_front_matter(trained, metrics), _head(trained), _data(trained, prepared)),
        *(_scores(metrics), _calibration(metrics), _alarms(alarms)),
        *(_limits(trained, prepared, leaks=_leaks(metrics)), _training(trained)),
    )
    write_bytes(path, "\n\n".join(sections).encode() + b"\n")


def _front_matter(trained: Card, metrics: dict[str, Any]) -> str:
    """The YAML head that model hubs read: the scores with intervals, and whether they leak."""
    source, subject = trained.parameters["data"]["source"], metrics["subject"]
    leaks = str(_leaks(metrics)).lower()
    levels = [("slice", metrics), *([("subject", subject)] if subject["n"] else [])]
    kinds = (("f1", "macro_f1", "macro F1"), ("accuracy", "accuracy", "accuracy"))
    rows = "\n".join(
        f"    - {{type: {kind}, name: {name} per {level}, value: {of[key]:.3f},"
        f" ci95: [{of['ci95'][key][0]:.3f}, {of['ci95'][key][1]:.3f}], leaks: {leaks}}}"
        for level, of in levels
        for kind, key, name in kinds
    )
    return f"""\
---
library_name: pytorch
pipeline_tag: image-classification
tags: [mri, alzheimers-disease, research-only]
model-index:
- name: {trained.architecture["name"]}
  results:
  - task: {{type: image-classification}}
    dataset: {{type: {source}, name: {source}, split: test}}
    metrics:
{rows}
---"""


def _leaks(metrics: dict[str, Any]) -> bool:
    """Whether test subjects were, or may have been, in training."""
    split = metrics["split"]
    return bool(split["unit"] == "slice" or split["shared_subjects"] != 0)


def _head(trained: Card) -> str:
    architecture = trained.architecture
    how = "trained from scratch"
    if start := trained.training.get("init"):
        how = f"trained further from `{start['name']}` (weights `{start['weights'][:16]}`)"
    return f"""\
# Model card: {architecture["name"]}, {len(trained.classes)} classes

**Research software. Not a medical device, not for clinical use, no diagnosis.**

{architecture["name"]}, {how}, on 2D grayscale brain MRI slices. Input: one slice,
{architecture["image_size"]}×{architecture["image_size"]} pixels ({trained.preprocessing["fit"]}),
values scaled to -1 to 1. Output: the probabilities of {", ".join(trained.classes)}.
Made for one purpose: to study how such classifiers are trained and evaluated."""


def _data(trained: Card, prepared: Prepared) -> str:
    data, split = trained.parameters["data"], trained.parameters["split"]
    origin = f"Collection `{data['source']}`"
    if data["source"] == "phantom":
        origin += ", which is **simulated**, its classes further apart than real ones"
    if data["permute_labels"]:
        origin += ", **its labels shuffled between subjects**: nothing but subjects can be learnt"
    if split["folds"]:
        how = f"fold {split['fold']} of {split['folds']} is the test"
    else:
        how = "{:.0%} / {:.0%} / {:.0%} of the images".format(*split["fractions"])
    unit = (
        "subjects kept whole" if split["unit"] == "subject" else "**slices drawn singly: it leaks**"
    )
    if not prepared.subjects_known:
        unit = "**slices drawn singly, subjects unknown: it leaks**"

    def count(name: str, part: str) -> str:
        subjects = _subjects(prepared, name, part)
        return f"{len(subjects)} of {len(set(subjects)) if prepared.subjects_known else '?'}"

    counts = ((name, *(count(name, part) for part in PARTS)) for name in prepared.classes)
    return f"""\
## Data

{origin}. Split: {how}, {unit}, seed {split["seed"]}. Slices of subjects:

{table(("class", "training", "validation", "test"), counts)}"""


def _scores(metrics: dict[str, Any]) -> str:
    subject, split = metrics["subject"], metrics["split"]
    names = {"macro_f1": "macro F1", "accuracy": "accuracy"}
    names |= {"balanced_accuracy": "balanced accuracy", "macro_auc": "macro AUC", "loss": "loss"}
    rows = (
        (name, *(interval(of.get(key), of["ci95"].get(key)) for of in (metrics, subject)))
        for key, name in names.items()
    )
    of_a_class = ("recall", "specificity", "precision", "f1")
    classes = (
        (name, *(f"{values[key]:.3f}" for key in of_a_class), values["support"])
        for name, values in (subject if subject["n"] else metrics)["per_class"].items()
    )
    off = (
        ({0: "right", 1: "neighbouring class"}.get(far, f"{far} classes off"), *count.values())
        for far, count in enumerate(metrics["stages_off"].values())
    )
    warning = ""
    if near_duplicates := split.get("near_duplicates"):
        warning = (
            f"\n**These scores leak: {near_duplicates} images have a near-duplicate in another part"
            " of the split. The same subjects have several names.**\n"
        )
    who = f"Test subjects seen in training: {split['shared_subjects']}."
    if near_duplicates:
        who = "How many test subjects were seen in training is unknown."
    elif split["shared_subjects"] is None:
        who = "Subjects are unknown: intervals take each slice for a subject, and are too narrow."
        warning = "\n**Subjects unknown, this split LEAKS: nothing is known about new subjects.**\n"
    elif split["unit"] == "slice":
        warning = (
            f"\n**These scores leak: {split['shared_subjects']} of {subject['n']} test subjects"
            " were in training too. They measure recognition of subjects.**\n"
        )
    level = "subject" if subject["n"] else "slice"
    header = (f"per {level}", "sensitivity", "specificity", "precision", "F1", f"{level}s")
    return f"""\
## Scores on the test part
{warning}
95 % intervals over subjects, by weighting them at random within their class. A subject's
probabilities are the mean over their slices, less those flagged as out-of-distribution, as
`alzmri predict` answers. {who}

{table(("score", "per slice", f"per subject (n={subject['n'] or '?'})"), rows)}

{table(header, classes)}

How far off the mistakes are, in order of severity:

{table(("", "slices", "people"), off)}"""


def _calibration(metrics: dict[str, Any]) -> str:
    calibration = metrics["calibration"]
    levels = {f"per slice, {when}": calibration[when] for when in ("before", "after")}
    levels["per subject, as scored"] = metrics["subject"]
    rows = (
        (
            name,
            f"{of['loss']:.3f}",
            interval(of["ece"], of["ci95"]["ece"]),
            interval(*of["calibrated_ece"].values()),
            f"{of['brier']:.3f}",
        )
        for name, of in levels.items()
        if of.get("ece") is not None
    )
    used = "after" if calibration["applied"] else "before"
    header = ("", "loss", "calibration error", "the same, by chance alone", "Brier score")
    return f"""\
## Calibration

One temperature, {calibration["temperature"]:.2f}, fitted on the validation part; it divides the
logits. The other scores of this card are of the probabilities *{used}* it. *By chance alone* is the
error that as many slices of as many subjects show when every probability is right: the mean, and
the range of 95 of 100 such tests. An error within that range is no sign of miscalibration.

{table(header, rows)}"""


def _alarms(alarms: dict[str, Any]) -> str:
    rows = (
        (
            name,
            interval(of["false_alarms"], of["ci95"]["false_alarms"]),
            of["slices"],
            f"{of['subjects_flagged']} of {of['subjects']}" if of["subjects"] else None,
        )
        for name, of in (("all", alarms), *alarms["classes"].items())
    )
    flagged = ", ".join(f"{name} ({count})" for name, count in alarms["flagged"].items())
    return f"""\
## False alarms

Test slices that are flagged as out-of-distribution (OOD) though they are of the same kind; subjects
with any: {flagged or "none"}.

{table(("class", "share of slices", "slices", "subjects with any"), rows)}"""


def _limits(trained: Card, prepared: Prepared, *, leaks: bool) -> str:
    limits = [
        "The intervals hold the fitted model fixed: they are about which subjects were tested, and"
        " say nothing about another seed of training, another scanner, another hospital or another"
        " selection of slices.",
        "No external validation: the test subjects are of the same collection.",
        "A slice carries the label of its subject, whether or not it shows any change.",
        "Confidence means little on images unlike the training data: other orientations, skulls"
        " not stripped, other contrasts, photographs.",
    ]
    if leaks:
        limits.insert(0, "Nothing is known about subjects the model has not seen: the split leaks.")
    if trained.parameters["data"]["source"] == "phantom":
        limits.insert(0, "Trained on simulated slices: useless on real ones.")
    for name in prepared.classes:
        few = len(set(_subjects(prepared, name, "test")))
        if prepared.subjects_known and few < FEW_SUBJECTS:
            limits.append(f"{name}: {few} test subjects, so its scores say little.")
    return "## Known limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _subjects(prepared: Prepared, name: str, part: str) -> list[str]:
    """The subject of each slice of a class in a part of the split."""
    return [row.subject for row in prepared.rows if (row.label, row.split) == (name, part)]


def _training(trained: Card) -> str:
    values = (
        (f"`{section}.{key}`", value)
        for section in ("data", "split", "augment", "model", "train")
        for key, value in trained.parameters[section].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in trained.versions.items())
    return f"""\
## Training

The epoch was chosen by macro F1 on the validation part. {versions}. Prepared data:
`{trained.data_sha256[:16]}`.

{table(("parameter", "value"), values)}"""
