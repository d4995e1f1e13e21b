"""Fewer epochs: the fast recipe beside the protocol, both on its slice split, which LEAKS."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch.utils.flop_counter import FlopCounterMode

from alzmri import terminal
from alzmri.classes import merged
from alzmri.evaluation.markdown import interval, table
from alzmri.experiments.runs import Finished, Settings, run_all
from alzmri.experiments.series import page, plans
from alzmri.experiments.series.plans import PUBLISHED_EPOCHS, PUBLISHED_SIZE, Scale
from alzmri.figure import SEVERITY, drawing
from alzmri.models import build
from alzmri.models.forward import normalise
from alzmri.params import Params

GOAL, SHARE = 0.99, 1 / 8
"""The validation macro F1 to reach, and the share of the published compute to do it in."""

_COUNTED = 8
"""Slices in the step that is counted; FLOPs are proportional to it."""


@dataclass(frozen=True)
class Curve:
    """How one run went, by the training FLOPs it took.

    Attributes:
        used: its parameters.
        scores: validation macro F1 after each epoch.
        slices: in the training part.
    """

    used: Params
    scores: Sequence[float]
    slices: int

    @classmethod
    def of(cls, run: Finished) -> "Curve":
        """The curve of ``run``."""
        counts = run.metrics("prepare")["split"]["train"].values()
        history = run.table("plots/history.csv")
        return cls(
            run.params,
            [float(row["val_macro_f1"]) for row in history],
            sum(count["images"] for count in counts),
        )

    @property
    def flops(self) -> Sequence[float]:
        """Up to the end of each epoch."""
        return [n * self._epoch(self.image_size) for n in range(1, len(self.scores) + 1)]

    @property
    def image_size(self) -> int:
        """Side of a slice, in pixels."""
        return self.used.data.image_size

    @property
    def reached(self) -> int | None:
        """The first epoch at ``GOAL``."""
        return next((n for n, score in enumerate(self.scores, start=1) if score >= GOAL), None)

    def published(self, image_size: int = PUBLISHED_SIZE) -> float:
        """FLOPs that the published run takes on these slices until it is at its best."""
        return PUBLISHED_EPOCHS * self._epoch(image_size)

    def _epoch(self, image_size: int) -> float:
        classes = len(merged(self.used.data.merge))
        return self.slices * flops_per_slice(self.used.model.name, classes, image_size)


@cache
def flops_per_slice(model: str, classes: int, image_size: int) -> float:
    """FLOPs of training ``model`` on one slice, forward and backward.

    torch counts them, operator by operator, while a step is computed. Validation and the
    re-estimated statistics of batch normalisation are not training, and not in it.
    """
    network = build(model, classes=classes, image_size=image_size, dropout=0.0)
    slices = torch.zeros(_COUNTED, image_size, image_size, dtype=torch.uint8)
    labels = torch.zeros(_COUNTED, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(normalise(slices)), labels).backward()
    return float(counter.get_total_flops() / _COUNTED)


def fast(source: str, scale: Scale, overrides: Settings, command: str) -> None:
    """Run what is missing of the recipe's seeds and of the protocol; write section and figure."""
    planned = plans.fast(source, scale, overrides)
    runs = dict(zip(planned, run_all(list(planned.values())), strict=True))
    curves = {name: Curve.of(run) for name, run in runs.items()}
    *recipes, protocol = curves.values()
    figure = Path(f"docs/fast-{source}.png")
    draw(figure, source, recipes, protocol)
    scores = table(_HEADER, (_row(name, run, curves[name]) for name, run in runs.items()))
    section = "\n\n".join(
        (
            f"## {source}: fewer epochs, on the split that LEAKS",
            f"{page.provenance(command, list(runs.values()))}"
            f" Precision {protocol.used.train.precision}."
            f" {scale.fast_note}".strip(),
            "Slices are split 70/15/15, not people: the test people are in training too, and the"
            " scores are mostly recognition of people. What is compared is the compute that two"
            " recipes need for the same leaking score. The recipe was chosen on the validation"
            " part; the epoch is too.",
            "The recipe, as one experiment:",
            f"```sh\n{_wrapped(next(iter(planned.values())).command)}\n```",
            scores,
            f"*Share*: of the training FLOPs of the published run up to its best epoch,"
            f" {PUBLISHED_EPOCHS} epochs at {PUBLISHED_SIZE} px on this training part"
            f" ({_petaflops(protocol.published())} PFLOP); in brackets of"
            f" {PUBLISHED_EPOCHS} epochs at the row's own size. FLOPs are torch's count of a real"
            " step, times steps; validation is not in them.",
            f"![Validation macro F1 by training FLOPs: this split leaks]({figure.name})",
        )
    )
    page.write_section(f"fast {source}", section)
    terminal.out.print(scores, markup=False)
    terminal.out.print(f"written: {page.PAGE}, {figure}; the experiments: dvc exp show")


_HEADER = (
    "slice split, LEAKS",
    "epochs, size, batch",
    "training PFLOP",
    "share",
    f"first at {GOAL} in validation",
    "best epoch",
    "validation macro F1",
    "validation accuracy",
    "test macro F1",
    "test accuracy",
)


def _row(name: str, run: Finished, curve: Curve) -> Sequence[object]:
    train, test = (run.metrics(stage) for stage in ("train", "evaluate"))
    size, whole, reached = curve.image_size, curve.flops[-1], curve.reached
    return (
        name,
        f"{train['epochs']} at {size} px, batches of {curve.used.train.batch_size}",
        _petaflops(whole),
        f"{whole / curve.published():.1%} ({whole / curve.published(size):.1%})",
        f"epoch {reached}, {_petaflops(curve.flops[reached - 1])} PFLOP" if reached else "never",
        train["best_epoch"],
        f"{train['val_macro_f1']:.3f}",
        f"{train['val_accuracy']:.3f}",
        interval(test["macro_f1"], test["ci95"]["macro_f1"]),
        interval(test["accuracy"], test["ci95"]["accuracy"]),
    )


def _wrapped(command: str) -> str:
    """``command`` over several lines of a shell, none of which ends with ``-S``."""
    whole = command.replace("-S ", "-S\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(whole, 92, break_on_hyphens=False)
    return " \\\n    ".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _petaflops(flops: float) -> str:
    return f"{flops / 1e15:.3g}"


def draw(path: Path, source: str, recipes: Sequence[Curve], protocol: Curve) -> None:
    """Validation macro F1 by training FLOPs so far: the recipe's seeds, and the protocol."""
    blue, red = SEVERITY[0], SEVERITY[3]
    with drawing(path, 6.8, 3.6) as figure:
        axes = figure.add_subplot()
        axes.axhline(GOAL, color="0.6", lw=0.8, zorder=0)
        axes.annotate(
            f"{GOAL}",
            (0, GOAL),
            xytext=(4, -10),
            textcoords=("offset points"),
            fontsize=8,
            xycoords=axes.get_yaxis_transform(),
            color="0.35",
        )
        for curve in recipes:
            _plot(axes, curve, blue)
        _plot(axes, protocol, red)
        _name(
            axes, recipes[0], blue, f"fast recipe,\n{len(recipes)} seeds", 1 / 4, (-9, 4), "right"
        )
        size = protocol.image_size
        _name(axes, protocol, red, f"the protocol's best,\n{size} px", 1 / 2, (4, -34), "left")
        published = protocol.published() / 1e15
        for place, label in (
            (SHARE * published, f"1/{1 / SHARE:.0f} of the published"),
            (published, f"published: {PUBLISHED_EPOCHS} epochs at {PUBLISHED_SIZE} px"),
        ):
            axes.axvline(place, color="0.6", lw=0.8, ls="--", zorder=0)
            axes.annotate(
                label,
                (place, 0.02),
                xytext=(-3, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                fontsize=8,
                color="0.35",
            )
        axes.set(xscale="log", ylim=(0, 1.04), xlabel="training PFLOP, log scale")
        axes.set_ylabel("validation macro F1")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{source}: the slice split, which LEAKS, in less compute", fontsize=10)


def _plot(axes: Axes, curve: Curve, colour: str) -> None:
    flops = [value / 1e15 for value in curve.flops]
    axes.plot(flops, curve.scores, color=colour, lw=1.4)
    axes.plot(flops[-1], curve.scores[-1], "o", color=colour, markersize=4)


def _name(
    axes: Axes,
    curve: Curve,
    colour: str,
    text: str,
    at: float,
    offset: tuple[int, int],
    side: str,
) -> None:
    """``text`` beside ``curve``, ``at`` so much of its way."""
    place = int(at * len(curve.scores))
    axes.annotate(
        text,
        (curve.flops[place] / 1e15, curve.scores[place]),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        fontsize=9,
        color=colour,
    )
