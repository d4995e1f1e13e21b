"""``alzmri review``: what a change does, and whether to merge it, for a pull request."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from alzmri.evaluation.markdown import table
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS, number
from alzmri.experiments.reports import charts, comparison, document
from alzmri.experiments.reports.charts import Line
from alzmri.experiments.reports.document import Page, code, plain
from alzmri.experiments.reports.groups import Group, Verdict, compare
from alzmri.experiments.runs import Run, Workspace, named

_PARTS = {"train": "training", "val": "validation", "test": "test"}
_ECE_WORSE = 0.01
"""A rise in calibration error that is worth a word; below it is rounding to a reader."""


def write(base: str, head: str | None) -> dict[str, Any]:
    """Write ``reports/review-BASE-HEAD/index.html`` and, with its pictures, ``README.md``.

    Args:
        base: a branch, tag, commit or experiment: what there is.
        head: what would replace it; None for the workspace.

    Returns:
        What :func:`report` says, and the paths ``written``, the HTML first.

    Raises:
        UserError: when there is no such revision, or a file of its results is not there.
    """
    before = named(base)[0]
    after = named(head)[0] if head else Workspace()
    page, content = report(before, after)
    folder = document.folder_name(f"review-{before.name}-{after.name}")
    return {**content, "written": page.write(document.REPORTS / folder)}


def report(before: Run, after: Run) -> tuple[Page, dict[str, Any]]:
    """The page on ``after`` in the place of ``before``, and what it says, for a program to read."""
    base, head = Group(before.name, (before,)), Group(after.name, (after,))
    settings, images = _settings(before, after), _images(before, after)
    verdict, stages = compare(head, base), _stages(before, after)
    conclusion = _conclusion(before, after, verdict)
    changed = settings or images or stages or before.evaluation != after.evaluation
    if not changed and not after.stale:
        conclusion = (
            "**Nothing changed.** Parameters, data, code of the stages and scores of"
            f" {code(after.name)} are those of {code(before.name)}."
        )
    warnings = [
        *comparison.warnings((base, head), head, {base.name: verdict}),
        *_warnings(before, after),
    ]
    page = Page(f"{after.name} against {before.name}", conclusion, warnings)
    sides = (code(before.name), code(after.name))
    page.add("Scores", table(("", *sides, "change"), _scores(before, after, verdict)))
    known = after.summary
    total = f": {known['images']} images of {known['subjects']} subjects"
    for heading, header, rows, same in (
        ("Parameters", ("parameter", *sides), settings, ""),
        ("Images (subjects)", ("class", *_PARTS.values()), images, total),
        ("Code and sources of the stages", ("stage", "differs in"), stages, ""),
    ):
        shown = ((code(name), *cells) for name, *cells in rows)
        page.add(heading, table(header, shown) if rows else f"The same in both{same}.")
    charts.add(page, (Line(head, "new"), Line(base, "baseline")), (base, head))
    return page, {
        "conclusion": plain(conclusion),
        "warnings": [plain(warning) for warning in warnings],
        "verdict": asdict(verdict),
        "base": before.name,
        "head": after.name,
        "scores": {
            key: {"base": number(before.score(key)), "head": number(after.score(key))}
            for key in METRICS
        },
        "parameters": {key: {"base": old, "head": new} for key, old, new in settings},
        "images": [dict(zip(("class", *_PARTS), row, strict=True)) for row in images],
        "code": {stage: plain(paths).split(", ") for stage, paths in stages},
    }


def _conclusion(before: Run, after: Run, verdict: Verdict) -> str:
    base, head = code(before.name), code(after.name)
    if after.stale:
        return (
            f"**No conclusion.** The results of {head} are not of its parameters and code:"
            f" {', '.join(after.stale)} ran with others. Run `dvc repro` and commit."
        )
    if after.leaks and not before.leaks:
        return (
            f"**Do not merge {head} for its score: it LEAKS.** Its test subjects were in training"
            f" too, those of {base} were not."
        )
    leak = " **Both LEAK: this says nothing about new subjects.**" if after.leaks else ""
    return verdict.advice(head, base) + leak


def _scores(before: Run, after: Run, verdict: Verdict) -> Iterator[tuple[str, ...]]:
    for metric, name in METRICS.items():
        old, new = before.score(metric), after.score(metric)
        better = (new < old) if metric in LESS_IS_BETTER else (new > old)
        change = "same" if new == old else f"{new - old:+.3f} {'better' if better else 'worse'}"
        if metric == "macro_f1":
            change = verdict.words
        elif verdict.difference is None:
            change = ""
        yield name, before.shown(metric), after.shown(metric), change
    yield "best epoch", before.best_epoch, after.best_epoch, ""


def _settings(before: Run, after: Run) -> list[tuple[Any, ...]]:
    """Keys of params.yaml that differ, with both values."""
    old, new = before.settings, after.settings
    return [(k, old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)]


def _images(before: Run, after: Run) -> list[tuple[Any, ...]]:
    """Images (subjects) of each class in each part, if any differ."""
    old, new = before.summary["split"], after.summary["split"]
    return [
        (
            name,
            *(_change(old[part].get(name), new[part].get(name)) for part in _PARTS),
        )
        for name in old["train"] | new["train"]
        if old != new
    ]


def _change(*known: Mapping[str, int] | None) -> str:
    old, new = (f"{one['images']} ({one['subjects']})" if one else "–" for one in known)
    return old if old == new else f"{old} → {new}"


def _stages(before: Run, after: Run) -> list[tuple[str, str]]:
    """The stages that ran on other code or data, and what differs."""
    rows = []
    for stage in {**before.lock.stages, **after.lock.stages}:
        old, new = before.lock.inputs(stage), after.lock.inputs(stage)
        if paths := [code(path) for path in {**old, **new} if old.get(path) != new.get(path)]:
            rows.append((stage, ", ".join(paths)))
    return rows


def _warnings(before: Run, after: Run) -> Iterator[str]:
    """What else a reviewer should know, a sentence each."""
    for run in (before, after):
        if near := run.summary["leak"]["test_images_with_training_twin"]:
            yield f"{code(run.name)}: {near} test images have a near-duplicate in training."
        if run.stale:
            yield (
                f"The results of {code(run.name)} are not of its parameters and code:"
                f" {', '.join(run.stale)} ran with others. `dvc repro` brings them up to date."
            )
    had, has = before.summary["subjects"], after.summary["subjects"]
    if has < had:
        yield f"{had - has} fewer subjects in the collection: {has} instead of {had}."
    error, more = before.score("ece"), after.score("ece")
    if more - error > _ECE_WORSE:
        yield (
            f"Calibration is worse: error {more:.3f} instead of {error:.3f}."
            " `evaluate.temperature` corrects part of it."
        )
    if after.training["best_epoch"] == len(after.history):
        yield (
            f"{code(after.name)} was at its best in its last epoch, {after.best_epoch}: it might"
            " gain from more."
        )
