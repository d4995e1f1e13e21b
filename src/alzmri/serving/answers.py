"""How the server says what it found, and why it refuses: JSON, always with the notice."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from alzmri.inference import NOTICE


class Refusal(Exception):
    """The request is not answered; ``reason`` is one sentence for the user who sent it."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers

    def response(self) -> Response:
        """What is sent instead of an answer."""
        return JSONResponse(Problem(error=self.reason).model_dump(), self.status, self.headers)


def busy() -> Refusal:
    """Try again soon. Made anew each time: an exception keeps the frames that it passes."""
    return Refusal(503, "the server is busy: try again in a second", {"Retry-After": "1"})


class _Answer(BaseModel):
    notice: str = NOTICE


class Problem(_Answer):
    """Why a request was refused."""

    error: str = Field(description="One sentence: what is wrong and what to do.")


class Predicted(BaseModel):
    """What the model says of one slice."""

    predicted: str | None = Field(
        description="The most probable class; null when out of distribution."
    )
    probabilities: dict[str, float] = Field(
        description="By class, least severe first; calibrated on the validation part; of sum 1."
    )
    in_distribution: bool = Field(
        description="Whether the slice resembles the training data; else its probabilities mean"
        " nothing."
    )
    ood_score: float = Field(description="How unlike it is; above 1 is out of distribution.")


class Slice(_Answer, Predicted):
    """The answer to one slice alone."""


class Slices(_Answer):
    """The answer to several slices, in the order sent."""

    images: list[Predicted]
    mean: dict[str, float] | None = Field(
        description="Mean probability of each class over the slices in distribution. Null when none"
        " is in distribution."
    )


class Chosen(BaseModel):
    """A slice of a volume."""

    depth: int = Field(description="Millimetres below the top of the brain.")
    slice: str = Field(description="What the model sees: a grayscale PNG as a data URL.")


class Volume(_Answer):
    """The slices around the ventricles, lowest first; each can be sent on its own."""

    slices: list[Chosen]


class Frequency(BaseModel):
    """How often test slices with such a probability of a class were in it."""

    share: float
    low: float = Field(description="Of the 95 % interval, with subjects as trials.")
    high: float
    slices: int
    people: int


class Nearest(BaseModel):
    """The training slices with the most similar features."""

    classes: list[str] = Field(description="Nearest first.")
    similarity: list[float] = Field(description="Cosine of the features of each, up to 1.")
    people: int = Field(description="How many subjects they are of.")


class Explained(Slice):
    """A slice, what the decision looked at, and what is known of similar slices."""

    slice: str = Field(description="What the model saw: a grayscale PNG as a data URL.")
    heat: str | None = Field(
        description="Grad-CAM of the most probable class over the slice: a PNG as a data URL."
    )
    calibration: dict[str, Frequency] | None = Field(
        description="By class; null without the test data, and out of distribution."
    )
    nearest: Nearest | None = Field(description="Null without the training data.")


class About(_Answer):
    """The model that answers."""

    name: str
    classes: list[str]
    image_size: int
    weights: str = Field(description="SHA-256 of the weights.")
    simulated: bool = Field(description="Trained on simulated slices: useless on real ones.")
    leaks: bool = Field(description="Split by slices: test subjects were seen in training.")
    reference: str | None = Field(description="Why there is no comparison with known slices.")
    card: str = Field(description="The model card, HTML.")


def document(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these refusals may come instead of an answer."""
    return {status: {"model": Problem} for status in statuses}
