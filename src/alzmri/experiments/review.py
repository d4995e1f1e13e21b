"""``alzmri review``: what a change does, and whether to merge it, for a pull request."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from alzmri.evaluation.markdown import table
from alzmri.experiments import charts
from alzmri.experiments.charts import Curve
from alzmri.experiments.document import Page, code, folder_name
from alzmri.experiments.groups import Group, Verdict, compare, warnings
from alzmri.experiments.runs import FinishedRun, Workspace, named
from alzmri.experiments.scores import LESS_IS_BETTER, METRICS, number

_PARTS = {"train": "training", "val": "validation", "test": "test"}


def write(base: str, head: str | None) -> dict[str, Any]:
    """Write the report on ``head`` in the place of ``base``; return what :meth:`Page.write` does.

    Each is a branch, tag, commit or experiment; without ``head``, it is the workspace.

    Raises:
        UserError: when there is no such revision, or a file of its results is not there.
    """
    before = named(base)[0]
    after = named(head)[0] if head else Workspace()
    return report(before, after).write(folder_name(f"review-{before.name}-{after.name}"))


def report(before: FinishedRun, after: FinishedRun) -> Page:
    """The page on ``after`` in the place of ``before``."""
    base, head = Group(before.name, (before,)), Group(after.name, (after,))
    old, new = before.settings, after.settings
    settings = [(k, old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)]
    images, verdict = _images(before, after), compare(head, base)
    changed = before.lock.changes(after.lock)
    stages = [(stage, ", ".join(map(code, paths))) for stage, paths in changed.items()]
    sides = (code(before.name), code(after.name))
    conclusion = _conclusion(before, after, verdict)
    alike = before.evaluation == after.evaluation and not (settings or images or stages)
    if alike and not after.stale:
        conclusion = (
            "**Nothing changed.** Parameters, data, code of the stages and scores of"
            f" {sides[1]} are those of {sides[0]}."
        )
    page = Page(
        f"{after.name} against {before.name}",
        conclusion,
        [*warnings((base, head), head, {base.name: verdict}), *_warnings(before, after)],
        verdict=asdict(verdict),
        base=before.name,
        head=after.name,
        scores={
            key: {"base": number(before.score(key)), "head": number(after.score(key))}
            for key in METRICS
        },
        parameters={key: {"base": one, "head": other} for key, one, other in settings},
        images=[dict(zip(("class", *_PARTS), row, strict=True)) for row in images],
        code=changed,
    )
    page.add("Scores", table(("", *sides, "change"), _scores(before, after, verdict)))
    whose = "unknown" if after.subjects_unknown else after.summary["subjects"]
    total = f": {after.summary['images']} images of {whose} subjects"
    for heading, header, rows, same in (
        ("Parameters", ("parameter", *sides), settings, ""),
        ("Images (subjects)", ("class", *_PARTS.values()), images, total),
        ("Code and sources of the stages", ("stage", "differs in"), stages, ""),
    ):
        shown = ((code(name), *cells) for name, *cells in rows)
        page.add(heading, table(header, shown) if rows else f"The same in both{same}.")
    charts.add(page, (Curve(head, "new"), Curve(base, "baseline")), (base, head))
    return page


def _conclusion(before: FinishedRun, after: FinishedRun, verdict: Verdict) -> str:
    base, head = code(before.name), code(after.name)
    if after.stale:
        return (
            f"**No conclusion.** The results of {head} are not of its parameters and code:"
            f" {', '.join(after.stale)} ran with others. Run `dvc repro` and commit."
        )
    if after.leaks and not before.leaks:
        return (
            f"**Do not merge {head} for its score: it LEAKS.** Its test subjects"
            f" {'may have been' if after.subjects_unknown else 'were'} in training too, those of"
            f" {base} were not."
        )
    leak = " **Both LEAK: this says nothing about new subjects.**" if after.leaks else ""
    return verdict.advice(head, base) + leak


def _scores(before: FinishedRun, after: FinishedRun, verdict: Verdict) -> Iterator[tuple[str, ...]]:
    for metric, name in METRICS.items():
        old, new = before.score(metric), after.score(metric)
        better = (new < old) if metric in LESS_IS_BETTER else (new > old)
        change = "same" if new == old else f"{new - old:+.3f} {'better' if better else 'worse'}"
        if math.isnan(new - old):
            change = ""
        if metric == "macro_f1":
            change = verdict.words
        elif verdict.difference is None:
            change = ""
        yield name, before.shown(metric), after.shown(metric), change
    yield "best epoch", before.best_epoch, after.best_epoch, ""


def _images(before: FinishedRun, after: FinishedRun) -> list[tuple[Any, ...]]:
    """Images (subjects) of each class in each part, if any differ."""
    old, new = before.summary["split"], after.summary["split"]
    if old == new:
        return []
    return [
        (name, *(_change(old[part].get(name), new[part].get(name)) for part in _PARTS))
        for name in old["train"] | new["train"]
    ]


def _change(*known: Mapping[str, int] | None) -> str:
    old, new = (f"{one['images']} ({one['subjects']})" if one else "–" for one in known)
    return old if old == new else f"{old} → {new}"


def _warnings(before: FinishedRun, after: FinishedRun) -> Iterator[str]:
    """Further remarks for a reviewer, a sentence each."""
    for run in (before, after):
        if near := run.summary["leak"]["test_images_with_training_near_duplicate"]:
            yield f"{code(run.name)}: {near} test images have a near-duplicate in training."
        if run.stale:
            yield (
                f"The results of {code(run.name)} are not of its parameters and code:"
                f" {', '.join(run.stale)} ran with others. `dvc repro` brings them up to date."
            )
    had, has = before.summary["subjects"], after.summary["subjects"]
    if had and has and has < had:
        yield f"{had - has} fewer subjects in the collection: {has} instead of {had}."
    error, more = before.score("ece"), after.score("ece")
    chance = after.evaluation.get("calibrated_ece")  # not in results of earlier versions
    known = before.evaluation["ci95"].get("ece")
    if chance and known and more > max(chance["range"][1], known[1]):
        yield (
            f"Calibration is worse: error {more:.3f} instead of {error:.3f}, and up to"
            f" {chance['range'][1]:.3f} by chance. `evaluate.temperature` corrects part of it."
        )
    if after.training["best_epoch"] == len(after.history):
        yield (
            f"{code(after.name)} was at its best in its last epoch, {after.best_epoch}: it might"
            " gain from more."
        )
