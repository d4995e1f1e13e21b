"""A comparison as Markdown and figures."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alzmri.evaluation.markdown import interval, table
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import charts
from alzmri.experiments.reports.charts import Line, Role
from alzmri.experiments.reports.comparison import BASELINE, Comparison
from alzmri.experiments.reports.document import Draw, code, folded, picture
from alzmri.experiments.reports.groups import REPEATED, Group, varying

_MATRICES = 12
"""Confusion matrices shown at most, the best first."""

_REMARKS = """\
± is the standard deviation over seeds and folds. The interval is of macro F1, by resampling the
test people within their class. *Best − this* is the difference in macro F1 with the same people
drawn for both, seed by seed: where its interval has zero inside, the two cannot be told apart."""


def text(comparison: Comparison, title: str) -> str:
    """The report as Markdown; its pictures are those of :func:`figures`."""
    runs = sum(len(group.runs) for group in comparison.groups)
    sections = [
        f"# {title}",
        f"> {comparison.conclusion}",
        "\n".join(f"- {caveat}" for caveat in comparison.caveats),
        f"## By {METRICS[comparison.metric]}",
        _table(comparison),
        _REMARKS,
        folded(f"The {runs} runs one by one", _runs(comparison)),
        folded("What all of them have in common", _common(comparison)),
        *_heat_map(comparison),
        VALIDATION,
        confusion(comparison.ranked[:_MATRICES]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def figures(comparison: Comparison) -> dict[str, Draw]:
    """What draws each picture of the text."""
    lines = [Line(group, _role(comparison, group)) for group in comparison.ranked]
    drawn = {**validation(lines), **matrices(comparison.ranked[:_MATRICES])}
    if _heat_map(comparison):
        drawn["heatmap.png"] = partial(_draw_heat_map, comparison)
    return drawn


VALIDATION = f"""\
## Validation, epoch by epoch

{picture("macro-f1.png", "macro F1 of the validation people")}
{picture("loss.png", "loss of the validation people")}"""


def validation(lines: Sequence[Line]) -> dict[str, Draw]:
    """What draws the pictures of ``VALIDATION``."""
    columns = {"macro-f1.png": "val_macro_f1", "loss.png": "val_loss"}
    return {
        path: partial(charts.curves, lines=lines, column=column, title=METRICS[column])
        for path, column in columns.items()
    }


def confusion(groups: Sequence[Group]) -> str:
    """A section with the confusion matrix of each."""
    pictures = (
        picture(f"{group.folder}/confusion.png", f"confusion matrix of {group.name}")
        for group in groups
    )
    return "\n".join(("## Confusion on the test people\n", *pictures))


def matrices(groups: Sequence[Group]) -> dict[str, Draw]:
    """What draws the pictures of :func:`confusion`."""
    return {
        f"{group.folder}/confusion.png": partial(charts.confusion, group=group) for group in groups
    }


def _table(comparison: Comparison) -> str:
    keys = varying(comparison.groups)
    extra = [] if comparison.metric == "macro_f1" else ["macro_f1"]
    header = [
        "experiment",
        *(METRICS[metric] for metric in (comparison.metric, *extra)),
        "95 % over people",
        "best − this",
        *(key.removeprefix("train.") for key in keys),
        "runs",
        *([] if comparison.metric == "val_macro_f1" else [METRICS["val_macro_f1"]]),
    ]
    rows = []
    for group in comparison.ranked:
        name = _label(comparison, group)
        low, high = group.interval
        cells = [group.told(metric) for metric in (comparison.metric, *extra)]
        if group is comparison.best:
            name, cells[0] = f"**{name}**", f"**{cells[0]}**"
        verdict = comparison.verdicts.get(group.name)
        rows.append(
            (
                name,
                *cells,
                f"{low:.3f}–{high:.3f}",
                verdict.words if verdict else "",
                *(_shown(group.settings.get(key)) for key in keys),
                len(group.runs),
                *([] if comparison.metric == "val_macro_f1" else [group.told("val_macro_f1")]),
            )
        )
    return table(header, rows)


def _label(comparison: Comparison, group: Group) -> str:
    label = code(group.name)
    if group.name == comparison.baseline and group.name != BASELINE:
        label += " baseline"
    return f"{label} **LEAKS**" if group.leaks else label


def _runs(comparison: Comparison) -> str:
    header = ("run", "train.seed", "split.seed", "fold", "macro F1", "accuracy", "best epoch")
    rows = (
        (
            code(run.name) + (" **LEAKS**" if run.leaks else ""),
            *run.repetition,
            interval(run.score("macro_f1"), run.test["ci95"]["macro_f1"]),
            interval(run.score("accuracy"), run.test["ci95"]["accuracy"]),
            f"{run.train['best_epoch']} of {run.train['epochs']}",
        )
        for group in comparison.ranked
        for run in group.runs
    )
    return table(header, rows)


def _common(comparison: Comparison) -> str:
    different = {*varying(comparison.groups), *REPEATED}
    settings = comparison.best.settings.items()
    return table(
        ("parameter", "value"),
        ((code(key), _shown(value)) for key, value in settings if key not in different),
    )


def _swept(comparison: Comparison) -> list[str]:
    """The parameters that differ between those that can be compared with the best."""
    return varying(_comparable(comparison))


def _comparable(comparison: Comparison) -> list[Group]:
    return [
        group
        for group in comparison.ranked
        if group.leaks == comparison.best.leaks and group.name != BASELINE
    ]


def _heat_map(comparison: Comparison) -> list[str]:
    if len(_swept(comparison)) != 2 or np.isnan(comparison.best.mean(comparison.metric)):
        return []
    rows, columns = _swept(comparison)
    return [
        f"## {rows} by {columns}",
        picture("heatmap.png", f"{METRICS[comparison.metric]}; the best is framed"),
    ]


def _draw_heat_map(comparison: Comparison, path: Path) -> None:
    keys = (_swept(comparison)[0], _swept(comparison)[1])
    groups = _comparable(comparison)
    ticks = tuple(_ordered([group.settings.get(key) for group in groups]) for key in keys)
    values = np.full((len(ticks[0]), len(ticks[1])), np.nan)
    spread = values.copy()
    for group in groups:
        at = tuple(
            tick.index(group.settings.get(key)) for tick, key in zip(ticks, keys, strict=True)
        )
        values[at], spread[at] = group.mean(comparison.metric), group.spread(comparison.metric)
    charts.heat_map(
        path,
        values,
        spread,
        (ticks[0], ticks[1]),
        keys,
        METRICS[comparison.metric],
        less_is_better=comparison.metric in LESS_IS_BETTER,
    )


def _role(comparison: Comparison, group: Group) -> Role:
    if group is comparison.best:
        return "best"
    return "baseline" if group.name == comparison.baseline else "other"


def _shown(value: object) -> str:
    return "–" if value is None else str(value)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each once, numbers before words."""
    unique = [value for place, value in enumerate(values) if value not in values[:place]]
    return sorted(
        unique, key=lambda v: (0, v, "") if isinstance(v, int | float) else (1, 0, str(v))
    )
