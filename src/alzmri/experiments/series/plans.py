"""What ``alzmri honest``, ``protocol`` and ``fast`` run: full size, and scaled to a CPU.

Every value that matters is spelt out: a default that changes in params.yaml must not change what
the documentation reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alzmri.experiments.runs import Experiment, Settings

FOLDS = 5

TASKS = {"none": "4 classes", "three-class": "3 classes", "binary": "2 classes"}
"""The values of ``data.merge`` and what the tables call them."""

PROTOCOL_SETTINGS: Mapping[str, Settings] = {
    "baseline": {"train.lr": 0.0001, "train.momentum": 0.9},
    "best": {"train.lr": 0.0005, "train.momentum": 0.85},
}
"""The protocol's two settings; everything else about them is the same."""

_COMMON: Settings = {
    "data.fit": "pad",
    "data.shuffle_labels": False,
    "split.subjects": "auto",
    "split.seed": 0,
    "augment.p": 0.2,
    "augment.shift": 0.05,
    "augment.scale": 0.05,
    "augment.rotate": 15,
    "model.name": "alexnet",
    "model.dropout": 0.5,
    "train.weight_decay": 0.0001,
    "train.warmup": 0,
    "train.label_smoothing": 0.0,
    "train.ema": 0.0,
    "train.precision": "auto",
    "train.patience": 0,
    "train.seed": 0,
    "evaluate.temperature": False,
}

_PROTOCOL: Settings = {
    **_COMMON,
    "data.merge": "none",
    "split.unit": "slice",
    "split.folds": 0,
    "train.schedule": "constant",
    "train.class_weights": "none",
}

PUBLISHED_EPOCHS, PUBLISHED_SIZE = 78, 224
"""When the published run was at its best, of its 100 epochs; and its image size."""

RECIPE: Settings = {
    # 31 % of the FLOPs of 224 px. 32 and 64 px cost as much: strides fit the size of the image.
    "data.image_size": 128,
    # The collection's slices all are 208 by 176 pixels: the same FLOPs show 18 % more of a brain's
    # width than with black borders.
    "data.fit": "stretch",
    "train.epochs": 31,
    # Four times the steps of the protocol's 128, for the same FLOPs.
    "train.batch_size": 32,
    # Five times the protocol's rate. It stays: the averaged weights, of about the last four epochs,
    # are what is scored, and take the place of its fall.
    "train.lr": 0.0025,
    "train.momentum": 0.9,
    "train.warmup": 2,
    "train.ema": 0.998,
    # Moderate Demented is 1 % of the slices: unweighted it is missed until all else is learnt.
    "train.class_weights": "sqrt",
    # This split rewards memory, which dropout delays.
    "model.dropout": 0.1,
    # Half of the slices, each by a little, about as neighbouring slices of a brain differ, in place
    # of a fifth by much: what is learnt of a slice then holds for the next one.
    "augment.p": 0.5,
    "augment.shift": 0.02,
    "augment.scale": 0.04,
    "augment.rotate": 4,
}
"""The fast recipe: what differs from the protocol, which keeps the rest."""

EMBEDDED_EPOCHS = 25
"""Of the protocol's curve on the embedded collection, which is there to try the command."""

_HONEST: Settings = {
    **_COMMON,
    "train.lr": 0.004,
    "train.momentum": 0.9,
    "train.schedule": "onecycle",
    "train.batch_size": 32,
    "train.class_weights": "sqrt",
}


@dataclass(frozen=True)
class Scale:
    """How large a plan is run.

    Attributes:
        protocol: settings of the protocol at this size.
        honest: settings of the cross-validation at this size.
        protocol_note: what was scaled, for the tables; empty for the full size.
        honest_note: likewise.
        curve: settings of the protocol that the fast recipe is shown beside.
        seeds: of training, for the fast recipe: each is one run of it.
        fast_note: likewise.
    """

    protocol: Settings
    honest: Settings
    protocol_note: str
    honest_note: str
    curve: Settings
    seeds: Sequence[int]
    fast_note: str


FULL = Scale(
    protocol={"data.image_size": 224, "train.batch_size": 128, "train.epochs": 100},
    honest={"data.image_size": 224, "train.epochs": 20},
    protocol_note="",
    honest_note="",
    curve={"data.image_size": 224, "train.batch_size": 128, "train.epochs": 100},
    seeds=range(5),
    fast_note="",
)
SCALED = Scale(
    protocol={"data.image_size": 128, "train.batch_size": 32, "train.epochs": 15},
    honest={"data.image_size": 128, "train.epochs": 6},
    protocol_note=(
        "Scaled for a machine without a GPU: 128 px instead of 224; batches of 32 instead of 128"
        " and 15 epochs instead of 100, which are 0.6 of the steps on 15 % of the images."
    ),
    honest_note=(
        "Scaled for a machine without a GPU: 128 px instead of 224, 6 epochs instead of 20."
    ),
    curve={"data.image_size": 128, "train.batch_size": 128, "train.epochs": PUBLISHED_EPOCHS},
    seeds=range(2),
    fast_note=(
        "Scaled for a machine without a GPU: the protocol at 128 px instead of 224, for the 78"
        " epochs after which the published run was at its best; and two seeds of the recipe instead"
        " of five."
    ),
)


def protocol(source: str, scale: Scale, overrides: Settings) -> dict[str, Experiment]:
    """The protocol's runs, by setting."""
    return {
        setting: Experiment(
            f"protocol-{source}-{setting}",
            {"data.source": source, **_PROTOCOL, **values, **scale.protocol, **overrides},
        )
        for setting, values in PROTOCOL_SETTINGS.items()
    }


def honest(
    source: str, task: str, folds: int, scale: Scale, overrides: Settings
) -> dict[int | None, Experiment]:
    """The folds of one task by number; under None the same on the slice split, which leaks."""
    settings = {"data.source": source, **_HONEST, **scale.honest, **overrides, "data.merge": task}
    name = f"honest-{source}-{TASKS[task].replace(' ', '')}"
    cross: dict[int | None, Experiment] = {
        fold: Experiment(
            f"{name}-fold{fold}",
            {**settings, "split.unit": "subject", "split.folds": folds, "split.fold": fold},
        )
        for fold in range(folds)
    }
    slices = {**settings, "split.unit": "slice", "split.folds": 0, "split.fold": 0}
    return {**cross, None: Experiment(f"{name}-slices", slices)}


def fast(source: str, scale: Scale, overrides: Settings) -> dict[str, Experiment]:
    """The recipe's runs and, last, the protocol's best setting, by what the table calls them."""
    common = {"data.source": source, **_PROTOCOL}
    curve = {**PROTOCOL_SETTINGS["best"], **scale.curve}
    if source == "phantom":
        curve["train.epochs"] = EMBEDDED_EPOCHS
    return {
        **{
            f"recipe, seed {seed}": Experiment(
                f"fast-{source}-seed{seed}", {**common, **RECIPE, "train.seed": seed, **overrides}
            )
            for seed in scale.seeds
        },
        "the protocol's best": Experiment(
            f"fast-{source}-protocol", {**common, **curve, **overrides}
        ),
    }
