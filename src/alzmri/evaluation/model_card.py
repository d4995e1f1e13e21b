"""Write ``MODEL_CARD.md``, for users of the weights.

It follows Mitchell et al., "Model cards for model reporting" (2019). The text is in
``model_card.md``, everything else comes from the run. The card has no date, so that the same run
writes the same card.
"""

from pathlib import Path
from string import Template
from typing import Any

from alzmri.data.prepared import PARTS, Prepared
from alzmri.evaluation.markdown import interval, table
from alzmri.files import write_bytes
from alzmri.models.saved import Card

FEW_SUBJECTS = 10
"""With fewer test subjects of a class, the card says that its scores say little."""


def write(
    path: Path, trained: Card, prepared: Prepared, metrics: dict[str, Any], alarms: dict[str, Any]
) -> None:
    """Write the card of a model.

    ``metrics`` is its ``models/evaluation.json``, ``alarms`` its ``models/ood.json``.
    """
    split = metrics["split"]
    leaks = split["unit"] == "slice" or split["shared_subjects"] != 0
    start = trained.training.get("init")
    from_ = start and f"further from `{start['name']}` (weights `{start['weights'][:16]}`)"
    values = {
        "architecture": trained.architecture["name"],
        "source": trained.parameters["data"]["source"],
        "number": len(trained.classes),
        "trained": f"trained {from_ or 'from scratch'}",
        "side": trained.architecture["image_size"],
        "fit": trained.preprocessing["fit"],
        "names": ", ".join(trained.classes),
        "seed": trained.parameters["split"]["seed"],
        "limits": "\n".join(f"- {limit}" for limit in _limits(trained, prepared, leaks=leaks)),
        "versions": ", ".join(f"{name} {number}" for name, number in trained.versions.items()),
        "data": trained.data_sha256[:16],
        "parameters": table(
            ("parameter", "value"),
            (
                (f"`{section}.{key}`", value)
                for section in ("data", "split", "augment", "model", "train")
                for key, value in trained.parameters[section].items()
            ),
        ),
        **_data(trained.parameters, prepared),
        **_scores(metrics, leaks=leaks),
        **_calibration(metrics),
        **_alarms(alarms),
    }
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    write_bytes(path, Template(text).substitute(values).encode())


def _data(parameters: dict[str, Any], prepared: Prepared) -> dict[str, str]:
    data, split = parameters["data"], parameters["split"]
    origin = f"Collection `{data['source']}`"
    if data["source"] == "phantom":
        origin += ", which is **simulated**, its classes further apart than real ones"
    if data["permute_labels"]:
        origin += ", **its labels shuffled between subjects**: nothing but subjects can be learnt"
    how = "{:.0%} / {:.0%} / {:.0%} of the images".format(*split["fractions"])
    if split["folds"]:
        how = f"fold {split['fold']} of {split['folds']} is the test"
    unit = "subjects kept whole"
    if split["unit"] == "slice":
        unknown = "" if prepared.subjects_known else ", subjects unknown"
        unit = f"**slices drawn singly{unknown}: it leaks**"

    def count(name: str, part: str) -> str:
        subjects = _subjects(prepared, name, part)
        return f"{len(subjects)} of {len(set(subjects)) if prepared.subjects_known else '?'}"

    rows = ((name, *(count(name, part) for part in PARTS)) for name in prepared.classes)
    counts = table(("class", "training", "validation", "test"), rows)
    return {"origin": origin, "split": f"{how}, {unit}", "counts": counts}


def _subjects(prepared: Prepared, name: str, part: str) -> list[str]:
    return [row.subject for row in prepared.rows if (row.label, row.split) == (name, part)]


def _scores(metrics: dict[str, Any], *, leaks: bool) -> dict[str, str]:
    subject, split = metrics["subject"], metrics["split"]
    index = "\n".join(
        f"    - {{type: {kind}, name: {name} per {level}, value: {of[key]:.3f},"
        f" ci95: [{of['ci95'][key][0]:.3f}, {of['ci95'][key][1]:.3f}],"
        f" leaks: {str(leaks).lower()}}}"
        for level, of in (("slice", metrics), ("subject", subject))
        for kind, key, name in (("f1", "macro_f1", "macro F1"), ("accuracy",) * 3)
        if of["ci95"]
    )
    names = {"macro_f1": "macro F1", "accuracy": "accuracy"}
    names |= {"balanced_accuracy": "balanced accuracy", "macro_auc": "macro AUC", "loss": "loss"}
    scores = (
        (name, *(interval(of.get(key), of["ci95"].get(key)) for of in (metrics, subject)))
        for key, name in names.items()
    )
    of_a_class = ("recall", "specificity", "precision", "f1")
    per_class = (
        (name, *(f"{values[key]:.3f}" for key in of_a_class), values["support"])
        for name, values in (subject if subject["n"] else metrics)["per_class"].items()
    )
    off = (
        ({0: "right", 1: "neighbouring class"}.get(far, f"{far} classes off"), *count.values())
        for far, count in enumerate(metrics["stages_off"].values())
    )
    warning, shared = "", split["shared_subjects"]
    seen = f"Test subjects seen in training: {shared}."
    if near_duplicates := split.get("near_duplicates"):
        seen = "How many test subjects were seen in training is unknown."
        warning = (
            f"These scores leak: {near_duplicates} images have a near-duplicate in another part"
            " of the split. The same subjects have several names."
        )
    elif shared is None:
        seen = "Subjects are unknown: intervals treat each slice as a subject and are too narrow."
        warning = "Subjects unknown, this split LEAKS: nothing is known about new subjects."
    elif split["unit"] == "slice":
        warning = (
            f"These scores leak: {shared} of {subject['n']} test subjects"
            " were in training too. They measure recognition of subjects."
        )
    level = "subject" if subject["n"] else "slice"
    header = (f"per {level}", "sensitivity", "specificity", "precision", "F1", f"{level}s")
    return {
        "index": index,
        "warning": warning and f"\n**{warning}**\n",
        "seen": seen,
        "scores": table(("score", "per slice", f"per subject (n={subject['n'] or '?'})"), scores),
        "per_class": table(header, per_class),
        "off": table(("", "slices", "people"), off),
    }


def _calibration(metrics: dict[str, Any]) -> dict[str, str]:
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
    header = ("", "loss", "calibration error", "the same, by chance alone", "Brier score")
    return {
        "temperature": f"{calibration['temperature']:.2f}",
        "applied": "after" if calibration["applied"] else "before",
        "calibration": table(header, rows),
    }


def _alarms(alarms: dict[str, Any]) -> dict[str, str]:
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
    header = ("class", "share of slices", "slices", "subjects with any")
    return {"flagged": flagged or "none", "alarms": table(header, rows)}


def _limits(trained: Card, prepared: Prepared, *, leaks: bool) -> list[str]:
    limits = []
    if trained.parameters["data"]["source"] == "phantom":
        limits.append("Trained on simulated slices: useless on real ones.")
    if leaks:
        limits.append("Nothing is known about subjects the model has not seen: the split leaks.")
    limits += [
        "The intervals hold the fitted model fixed: they are about which subjects were tested, and"
        " say nothing about another seed of training, another scanner, another hospital or another"
        " selection of slices.",
        "No external validation: the test subjects are of the same collection.",
        "A slice carries the label of its subject, whether or not it shows any change.",
        "Confidence means little on images unlike the training data: other orientations, skulls"
        " not stripped, other contrasts, photographs.",
    ]
    for name in prepared.classes:
        few = len(set(_subjects(prepared, name, "test")))
        if prepared.subjects_known and few < FEW_SUBJECTS:
            limits.append(f"{name}: {few} test subjects, so its scores say little.")
    return limits
