"""``alzmri compare`` ranks groups of runs; ``alzmri review`` reports what one change does."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from alzmri import git, terminal
from alzmri.errors import UserError
from alzmri.evaluation import intervals, leak
from alzmri.evaluation.markdown import records, table
from alzmri.experiments.finished_runs import (
    LESS_IS_BETTER,
    METRICS,
    FinishedRun,
    Group,
    Workspace,
    chosen,
    classified,
    counts,
    number,
)
from alzmri.experiments.report_page import Curve, Page, code, folder_name

BASELINE = "baseline"  # the committed run that the experiments started from
_MATRICES = 12  # maximum number of confusion matrices, the best first
_PARTS = {"train": "training", "val": "validation", "test": "test"}
_REMARKS = """\
± is the standard deviation over seeds and folds. The interval of macro F1 is over the test subjects
and holds the fitted models fixed. *Best − this* is the difference in macro F1, seed by seed, with
the same weights of the subjects for both: if its interval contains zero, it is not significant."""

Known = Literal["better", "worse", "the same", "not significantly different", "not comparable"]
_ADVICE: Mapping[Known, str] = {
    "better": "**Merge {new}: better than {old}**, {evidence}.",
    "worse": "**Keep {old}: {new} is worse**, {evidence}.",
    "the same": "**Keep {old}, or {new} for other merits: every prediction is the same class.**",
    "not significantly different": (
        "**Keep {old}, or {new} for other merits: not significantly different**, {evidence}."
    ),
    "not comparable": "**No conclusion about {old}: not comparable**, {evidence}.",
}


class Verdict(NamedTuple):
    """The comparison of a new group with an old one.

    ``evidence`` is a clause on the ``difference`` of macro F1, new minus old (its value, interval,
    and how often new is ahead), or on why there is none; ``words`` are for a table.
    """

    known: Known
    evidence: str
    words: str = "not comparable"
    difference: Mapping[str, Any] | None = None

    def advice(self, new: str, old: str) -> str:
        """Whether to replace ``old`` by ``new``, and why."""
        return _ADVICE[self.known].format(new=new, old=old, evidence=self.evidence)


def compare(new: Group, old: Group) -> Verdict:
    """Compare runs of the same seeds and fold on the same test slices."""
    others = {run.repetition: run for run in old.runs}
    pairs = [(run, others[run.repetition]) for run in new.runs if run.repetition in others]
    # Without common seeds, pair the runs in their order.
    pairs = pairs or list(zip(new.runs, old.runs, strict=False))
    first, second = [], []
    for run, other in pairs:
        ours, theirs = run.predictions, other.predictions
        subjects = {*theirs.subjects}
        if ours.classes != theirs.classes:
            return Verdict("not comparable", "other classes")
        if ours.paths != theirs.paths:
            common = f"{len(subjects & {*ours.subjects})} of {len(subjects)} in common"
            return Verdict("not comparable", f"other test subjects ({common})")
        if (ours.truth != theirs.truth).any():
            return Verdict("not comparable", "other labels")
        first.append(classified(run))
        # The other run may use other names of subjects; the slices are the same.
        second.append(first[-1]._replace(predicted=theirs.predicted))
    classes = len(new.runs[0].predictions.classes)
    found = intervals.difference(first, second, classes, new.settings["split.seed"])
    runs, (low, high) = max(len(new.runs), len(old.runs)), found.interval
    paired = f", in {runs} pairs of runs" * (runs > 1)
    if len(pairs) < runs:
        paired = f", on the {len(pairs)} of {runs} runs that have a counterpart"
    known: Known = "better" if low > 0 else "worse" if high < 0 else "not significantly different"
    words = f"{known}: {signed(found)}"
    if all(np.array_equal(a.predicted, b.predicted) for a, b in zip(first, second, strict=True)):
        known = words = "the same"
    return Verdict(
        known,
        f"{signed(found)} macro F1, ahead in {100 * found.ahead:.0f} % of the resamples of"
        f" {len({name for test in first for name in test.subjects})} test subjects{paired}",
        words,
        {"value": found.value, "interval": found.interval, "ahead": found.ahead},
    )


def signed(found: intervals.Resampled) -> str:
    """Text such as ``+0.080 [+0.020, +0.140]``."""
    low, high = found.interval
    return f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """``runs`` grouped by parameters (without ``REPEATED``), code and data."""
    alike: dict[str, list[FinishedRun]] = {}
    for run in runs:
        alike.setdefault(run.identity, []).append(run)
    groups = [sorted(group, key=lambda run: run.repetition) for group in alike.values()]
    names = []
    for group in groups:
        left = {re.sub(r"-(seed|fold)\d+(?=-|$)", "", run.name) for run in group}
        names.append(left.pop() if len(left) == 1 < len(group) else group[0].name)
    return [
        Group(name if names.count(name) == 1 else group[0].name, group)
        for name, group in zip(names, groups, strict=True)
    ]


def varying(groups: Sequence[Group]) -> list[str]:
    """The keys, without ``REPEATED``, whose values differ between ``groups``."""
    keys = dict.fromkeys(key for group in groups for key in group.settings if counts(key))
    return [key for key in keys if len({str(one.settings.get(key)) for one in groups}) > 1]


def write_comparison(finished: Sequence[FinishedRun], name: str, metric: str) -> dict[str, Any]:
    """Write the report ``name`` on one or more runs, and on the committed run if it is comparable.

    Returns the result of :meth:`Page.write`; raises UserError when a run's files are missing.
    """
    fresh = []
    for run in finished:
        if run.stale:
            terminal.warn(f"{run.name} is left out: its stages {', '.join(run.stale)} did not run")
        else:
            run.load()
            fresh.append(run)
    if not fresh:
        raise UserError("no experiment ran the whole pipeline: `dvc exp run`")
    groups, committed = grouped(fresh), FinishedRun(BASELINE, git.head(), is_experiment=False)
    names = {group.runs[0].identity: group.name for group in groups}
    alone, baseline = Group(BASELINE, (committed,)), None
    try:
        baseline = names.get(committed.identity)
        if baseline is None and BASELINE not in names.values():
            committed.load()
            if not committed.stale and any(compare(one, alone).difference for one in groups):
                groups, baseline = [*groups, alone], BASELINE
    except UserError as error:
        terminal.warn(f"shown without the committed run: {error}")
    return compared(groups, baseline, metric, name).write(name)


def ranked(groups: Sequence[Group], metric: str) -> list[Group]:
    """``groups``, the best first; those that may leak come after others, those that leak last."""

    def rank(group: Group) -> tuple[int, float, str]:
        score = group.mean(metric) * (1 if metric in LESS_IS_BETTER else -1)
        return leak.WORDS.index(group.leaks), np.inf if np.isnan(score) else score, group.name

    return sorted(groups, key=rank)


def compared(groups: Sequence[Group], baseline: str | None, metric: str, title: str) -> Page:
    """The page on ``groups``, the best by ``metric`` first; ``baseline`` is the name of one."""
    groups = ranked(groups, metric)
    best, keys = groups[0], varying(groups)
    verdicts = {group.name: compare(best, group) for group in groups[1:]}
    experiments, rows = [], []
    for group in groups:
        verdict = verdicts.get(group.name)
        experiments.append(
            {
                "name": group.name,
                "runs": [run.name for run in group.runs],
                "leaks": bool(group.leaks),
                "parameters": {key: group.settings.get(key) for key in keys},
                "scores": {key: number(group.mean(key)) for key in METRICS},
                "spread": {key: number(group.spread(key)) for key in METRICS},
                "ci95": {"macro_f1": group.interval},
                "best_against_this": verdict and verdict._asdict(),
            }
        )
        bold = "" if verdict else "**"
        name = code(group.name) + " baseline" * (group.name == baseline != BASELINE)
        row: dict[str, object] = {
            "experiment": bold + name + f" **{group.leaks}**" * bool(group.leaks) + bold,
            METRICS[metric]: bold + group.shown(metric) + bold,
        }
        row.setdefault(METRICS["macro_f1"], group.shown("macro_f1"))
        row["95 % over subjects"] = "–".join(f"{bound:.3f}" for bound in group.interval)
        row["best − this"] = verdict.words if verdict else ""
        row |= {key.removeprefix("train."): group.settings.get(key) for key in keys}
        row["runs"] = len(group.runs)
        row.setdefault(METRICS["val_macro_f1"], group.shown("val_macro_f1"))
        rows.append(row)
    page = Page(
        title,
        _which_to_merge(best, verdicts, baseline, metric),
        [*_warnings(groups, best, verdicts), *_ranking_warnings(groups, metric)],
        metric=metric,
        baseline=baseline,
        experiments=experiments,
    )
    page.add(f"By {METRICS[metric]}", records(rows), _REMARKS)
    curves: list[Curve] = [
        (one, "best" if one is best else "baseline" if one.name == baseline else "other")
        for one in groups
    ]
    page.add_charts(curves, groups[:_MATRICES])
    return page


def _which_to_merge(
    best: Group, verdicts: Mapping[str, Verdict], baseline: str | None, metric: str
) -> str:
    name, (low, high) = code(best.name), best.interval
    scores = f"{METRICS[metric]} {best.shown(metric)}"
    scores += f" over {len(best.runs)} runs, " if len(best.runs) > 1 else ", "
    scores += "" if metric == "macro_f1" else f"macro F1 {best.mean('macro_f1'):.3f} "
    scores += f"[{low:.3f}, {high:.3f}] over subjects"
    if best.leaks:
        return f"**Merge nothing by scores: every run {best.leaks}.** {name} is first: {scores}."
    base = "the baseline " * (baseline != BASELINE) + code(baseline)
    if baseline == best.name:
        return f"**Keep {base}.** Nothing scores higher: {scores}."
    first = verdicts[baseline].advice(name, base) if baseline else "**No baseline.**"
    return f"{first} {name} scores best: {scores}."


def _warnings(
    groups: Sequence[Group], new: Group, verdicts: Mapping[str, Verdict]
) -> Iterator[str]:
    """Warnings in Markdown; ``verdicts`` compare ``new`` with each of the others, by name."""
    leaking = []
    for group in (group for group in groups if group.leaks):
        split, subjects = (group.runs[0].evaluation[key] for key in ("split", "subject"))
        how = f"{split['shared_subjects']} of {subjects['n']} test subjects were in training too"
        if split["shared_subjects"] is None:
            several = split.keys() & {"near_duplicates", "several_groups"}
            how = "a subject may have several names" if several else "subjects unknown"
        leaking.append(f"{code(group.name)} {group.leaks} ({how})")
    if leaking:
        yield f"**{', '.join(leaking)}.** The score says nothing about new subjects."
    if found := [code(one.name) for one in groups if one.settings.get("data.permute_labels")]:
        yield f"Labels are permuted between subjects: {', '.join(found)} should score at chance."
    apart = [f"{code(k)} ({one.evidence})" for k, one in verdicts.items() if not one.difference]
    if apart:
        yield (
            f"**Not comparable with {code(new.name)}**: {', '.join(apart)}. Their tests differ, so"
            " no difference is given."
        )


def _ranking_warnings(groups: Sequence[Group], metric: str) -> Iterator[str]:
    best, *rest = groups
    other = [g for g in rest if g.runs[0].scored != best.runs[0].scored]
    if names := ", ".join(code(group.name) for group in other):
        yield f"{names} ran with other code or data than {code(best.name)}: see `alzmri review`."
    if len(groups) > 2 and not metric.startswith("val_"):
        yield (
            f"The test score of the best of {len(groups)} is partly luck."
            " `--metric val_macro_f1` chooses by validation instead."
        )


def write_review(base: str, head: str | None) -> dict[str, Any]:
    """Write the report on ``head``, by default the workspace, compared with ``base``.

    Returns the result of :meth:`Page.write`; raises UserError like :func:`chosen`.
    """
    before, after = chosen([base])[0], chosen([head])[0] if head else Workspace()
    return reviewed(before, after).write(folder_name(f"review-{before.name}-{after.name}"))


def reviewed(before: FinishedRun, after: FinishedRun) -> Page:
    """The page on ``after`` compared with ``before``."""
    base, head = Group(before.name, (before,)), Group(after.name, (after,))
    old, new = before.settings, after.settings
    settings = [(k, old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)]
    images, verdict = _images(before, after), compare(head, base)
    changed = before.changes(after)
    stages = [(stage, ", ".join(map(code, paths))) for stage, paths in changed.items()]
    sides = (code(before.name), code(after.name))
    alike = before.evaluation == after.evaluation and not (settings or images or stages)
    page = Page(
        f"{after.name} against {before.name}",
        _whether_to_merge(before, after, verdict, alike=alike),
        [*_warnings((base, head), head, {base.name: verdict}), *_notes(before, after)],
        verdict=verdict._asdict(),
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
    whose = after.summary["subjects"] or "unknown"
    total = f": {after.summary['images']} images of {whose} subjects"
    for heading, header, rows, same in (
        ("Parameters", ("parameter", *sides), settings, ""),
        ("Images (subjects)", ("class", *_PARTS.values()), images, total),
        ("Code and sources of the stages", ("stage", "differs in"), stages, ""),
    ):
        shown = ((code(name), *cells) for name, *cells in rows)
        page.add(heading, table(header, shown) if rows else f"The same in both{same}.")
    page.add_charts(((head, "new"), (base, "baseline")), (base, head))
    return page


def _whether_to_merge(
    before: FinishedRun, after: FinishedRun, verdict: Verdict, *, alike: bool
) -> str:
    base, head = code(before.name), code(after.name)
    if after.stale:
        return f"**No conclusion.** {_is_stale(after)}. Run `dvc repro` and commit."
    if alike:
        return f"**Nothing changed.** {head} has the parameters, data, code and scores of {base}."
    if after.leaks and not before.leaks:
        return f"**Do not merge {head} for its score: it {after.leaks}.** {base} does not."
    both = f" **{head} {after.leaks}, {base} {before.leaks}: it says nothing about new subjects.**"
    return verdict.advice(head, base) + both * bool(after.leaks)


def _is_stale(run: FinishedRun) -> str:
    stages = ", ".join(run.stale)
    whose = f"The results of {code(run.name)} do not belong to its parameters and code"
    return f"{whose}: {stages} ran with others"


def _scores(before: FinishedRun, after: FinishedRun, verdict: Verdict) -> Iterator[tuple[str, ...]]:
    for metric, name in METRICS.items():
        old, new = before.score(metric), after.score(metric)
        change = "same" if new == old else f"{new - old:+.3f}"
        if metric == "macro_f1":
            change = verdict.words
        elif verdict.difference is None or math.isnan(new - old):
            change = ""
        yield name, before.shown(metric), after.shown(metric), change
    yield "best epoch", before.best_epoch, after.best_epoch, ""


def _images(before: FinishedRun, after: FinishedRun) -> list[tuple[Any, ...]]:
    """Images (subjects) of each class in each part, if any differ."""
    old, new = before.summary["split"], after.summary["split"]
    if old == new:
        return []

    def cell(*known: Mapping[str, int] | None) -> str:
        one, other = (f"{side['images']} ({side['subjects']})" if side else "–" for side in known)
        return one if one == other else f"{one} → {other}"

    return [
        (name, *(cell(old[part].get(name), new[part].get(name)) for part in _PARTS))
        for name in old["train"] | new["train"]
    ]


def _notes(before: FinishedRun, after: FinishedRun) -> Iterator[str]:
    """More warnings for a reviewer, one sentence each."""
    for run in (before, after):
        if near := run.summary["leak"]["test_images_with_training_near_duplicate"]:
            yield f"{code(run.name)}: {near} test images have a near-duplicate in training."
        if run.stale:
            yield f"{_is_stale(run)}. `dvc repro` brings them up to date."
    error, more = before.score("ece"), after.score("ece")
    chance = after.evaluation.get("calibrated_ece")  # not in results of earlier versions
    known = before.evaluation["ci95"].get("ece")
    if chance and known and more > max(most := chance["range"][1], known[1]):
        yield (
            f"Calibration is worse: error {more:.3f} instead of {error:.3f}; by chance up to"
            f" {most:.3f}. `evaluate.temperature` corrects part of it."
        )
    if after.training["best_epoch"] == len(after.history):
        yield f"The best epoch of {code(after.name)} was its last: more epochs might help."
