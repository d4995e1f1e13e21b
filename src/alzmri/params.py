"""The schema of ``params.yaml``, and the only place that reads it and checks its values."""

import difflib
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alzmri.errors import UserError

PARAMS_FILE = Path("params.yaml")
_RENAMED = {"data.shuffle_labels": "data.permute_labels"}
Schema = TypeVar("Schema", bound=BaseModel)


def _number(value: object) -> object:
    """A number, even if YAML 1.1 reads it as a text, such as ``1e-4``."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: object) -> object:
    """A text, even if YAML reads it as a number, a date or a boolean, such as ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | date) else value


Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[Text, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


_RULES: dict[str, tuple[Callable[[Any, dict[str, Any]], bool], str]] = {
    "data.source": (
        lambda source, _: source != "prepared",
        "data/prepared is an output of the pipeline, not a collection",
    ),
    "split.subjects": (
        lambda subjects, above: (subjects, above.get("unit")) != ("unknown", "subject"),
        "a subject split needs known subjects: use `alzmri data import --subject REGEX`,"
        " add a subjects.csv (columns path,subject), or set split.unit=slice, which LEAKS",
    ),
    "split.fractions": (
        lambda fractions, _: abs(sum(fractions) - 1) <= 1e-6 and min(fractions) > 0,
        "training, validation and test must each be above 0 and sum to 1",
    ),
    "split.folds": (
        lambda n, _: n not in (1, 2),
        "must be 0 (one split by fractions) or at least 3",
    ),
    "split.fold": (
        lambda fold, above: fold < max(above.get("folds", fold + 1), 1),
        "must be at least 0 and below split.folds",
    ),
    "train.warmup": (
        lambda warmup, above: warmup < above.get("epochs", warmup + 1),
        "must be below train.epochs",
    ),
}
"""Rules beyond types and bounds; each gets a value, and the values above it in its section."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _follow_rules(cls, value: Any, info: ValidationInfo) -> Any:
        allowed, message = _RULES.get(f"{cls.__name__.lower()}.{info.field_name}", (None, ""))
        if allowed and not allowed(value, info.data):
            raise ValueError(message)
        return value


class Phantom(_Section):
    """The embedded, simulated collection."""

    subjects: int = Field(ge=3, le=10_000)
    slices: int = Field(ge=1, le=32)
    difficulty: Number = Field(ge=0, le=2)
    seed: Seed


class Data(_Section):
    """The collection, and how its slices become square images."""

    source: Name
    image_size: Literal[32, 64, 96, 128, 160, 224]
    fit: Literal["pad", "stretch"]
    merge: Literal["none", "three-class", "binary"]
    max_rejected: Fraction
    permute_labels: bool


class Split(_Section):
    """The subjects for training, for validation (which chooses the epoch) and for the test."""

    unit: Literal["subject", "slice"]
    subjects: Literal["auto", "file", "pixels", "unknown"]
    fractions: list[Fraction] = Field(min_length=3, max_length=3)
    folds: int = Field(ge=0, le=100)
    fold: int = Field(ge=0)
    seed: Seed


class Augment(_Section):
    """Random shifts, scales and rotations of training slices."""

    p: Fraction
    shift: Number = Field(ge=0, le=0.5)
    scale: Number = Field(ge=0, le=0.5)
    rotate: Number = Field(ge=0, le=180)


class Model(_Section):
    name: Literal["alexnet", "lenet", "resnet18"]
    dropout: Number = Field(ge=0, lt=1)


class Train(_Section):
    """The optimiser and the length of training."""

    lr: Number = Field(gt=0, le=10)
    momentum: Number = Field(ge=0, lt=1)
    weight_decay: Number = Field(ge=0, le=1)
    batch_size: int = Field(ge=2, le=65_536)
    epochs: int = Field(ge=1, le=100_000)
    schedule: Literal["constant", "cosine", "onecycle"]
    warmup: Number = Field(ge=0)
    class_weights: Literal["none", "sqrt", "balanced"]
    label_smoothing: Number = Field(ge=0, lt=1)
    ema: Number = Field(ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"]
    init: Text
    seed: Seed
    checkpoint_every: int = Field(ge=0)
    keep_last: bool
    patience: int = Field(ge=0)


class Evaluate(_Section):
    temperature: bool


class Export(_Section):
    formats: list[Literal["onnx"]] = Field(max_length=1)


class Compute(_Section):
    """The machine that trains, and how stages use the processor."""

    train_on: Literal["here", "sagemaker"]
    portable: bool = False
    threads: int = Field(default=0, ge=0, le=1024)


class Track(_Section):
    project: Annotated[Text, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
    entity: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]{0,128}$")]
    group: Annotated[Text, Field(max_length=128)]
    mode: Literal["auto", "online", "offline", "disabled"]


class Params(_Section):
    phantom: Phantom
    data: Data
    split: Split
    augment: Augment
    model: Model
    train: Train
    evaluate: Evaluate
    compute: Compute = Compute(train_on="here")  # a job on SageMaker has no such section
    export: Export
    track: Track


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and check ``path``.

    Raises:
        UserError: with all faults: key, value, allowed values, the nearest valid key.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path} not found: run from the root of the repository") from None


def parse(text: str | bytes, name: str) -> Params:
    """:func:`load` for a text in memory; messages call it ``name``."""
    content = read(text, name)
    for key, field in _fields(Params).items():
        section, _, last = key.partition(".")
        with suppress(KeyError, TypeError):
            if field.annotation is str and isinstance(content[section][last], int | float | date):
                written = YAML(typ="base", pure=True).load(text)  # `1e5`, not the number it means
                content[section][last] = written[section][last]
    return validated(Params, content, name)


def read(text: str | bytes, name: str) -> Any:
    """The content of the YAML ``text``; `UserError` if it is not valid YAML."""
    try:
        return YAML(typ="safe", pure=True).load(text)  # libyaml crashes on deep nesting
    except (YAMLError, ValueError, IndexError, RecursionError) as error:
        # The parser raises the last three for impossible dates, tags and depths.
        raise UserError(f"{name} is not valid YAML: {error}") from None


def validated(schema: type[Schema], content: object, name: str) -> Schema:
    """``content``, which messages call ``name``; `UserError` lists every fault."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = [_explain(fault, schema) for fault in error.errors(include_url=False)]
        raise UserError("\n  ".join((f"{name} has {len(faults)} fault(s):", *faults))) from None


def _explain(fault: ErrorDetails, schema: type[BaseModel]) -> str:
    """One fault in one line: key = value: what is allowed."""
    key = ".".join(map(str, fault["loc"])) or "the whole file"
    match fault["type"]:
        case "extra_forbidden" if key in _RENAMED:
            return f"{key}: is now called {_RENAMED[key]}"
        case "extra_forbidden":
            near = difflib.get_close_matches(key, _fields(schema), n=1, cutoff=0.5)
            return f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return f"{key}: missing; add it (the committed file has every key)"
        case "value_error":
            return f"{key} = {fault['input']!r}: {fault['ctx']['error']}"
        case "literal_error":
            return f"{key} = {fault['input']!r}: allowed are {fault['ctx']['expected']}"
        case _:
            return f"{key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _fields(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of ``schema`` and of its sections, by key."""
    fields = dict(schema.model_fields)
    for section, of in schema.model_fields.items():
        for name, field in getattr(of.annotation, "model_fields", {}).items():
            fields[f"{section}.{name}"] = field
    return fields
