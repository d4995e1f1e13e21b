"""How the server says what it found, and why it refuses: JSON, always with the notice."""

from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from alzmri.inference import NOTICE


def refusal(error: HTTPException) -> Response:
    """What is sent instead of an answer; its detail is one sentence for the user who asked."""
    return JSONResponse(Problem(error=error.detail).model_dump(), error.status_code, error.headers)


def busy() -> HTTPException:
    """Try again soon. Made anew each time: an exception keeps the frames that it passes."""
    return HTTPException(503, "the server is busy: try again in a second", {"Retry-After": "1"})


def document(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: these refusals may come instead of an answer."""
    return {status: {"model": Problem} for status in statuses}


class _Answer(BaseModel):
    notice: str = NOTICE


class Problem(_Answer):
    """Why a request was refused."""

    error: str = Field(description="One sentence: what is wrong and what to do.")


class PredictedSlice(BaseModel):
    """What the model says of one slice."""

    predicted: str | None = Field(description="The most probable class; null out of distribution.")
    probabilities: dict[str, float] = Field(description="By class, least severe first; calibrated.")
    in_distribution: bool = Field(description="If not, the probabilities mean nothing.")
    ood_score: float = Field(description="How unlike it is; above 1 is out of distribution.")


class SliceAnswer(_Answer, PredictedSlice):
    """The answer to one slice alone."""


class SlicesAnswer(_Answer):
    """The answer to several slices, in the order sent."""

    images: list[PredictedSlice]
    mean: dict[str, float] | None = Field(description="Over the slices in distribution, if any.")


class VolumeSlice(BaseModel):
    """A slice of a volume."""

    depth: int = Field(description="Millimetres below the top of the brain.")
    slice: str = Field(description="What the model sees: a grayscale PNG as a data URL.")


class VolumeAnswer(_Answer):
    """The slices around the ventricles, lowest first; each can be sent on its own."""

    slices: list[VolumeSlice]


class ClassFrequency(BaseModel):
    """How often test slices with such a probability of a class were in it."""

    share: float
    low: float = Field(description="Of the 95 % interval, with subjects as trials.")
    high: float
    slices: int
    subjects: int


class NearestSlices(BaseModel):
    """The training slices with the most similar features."""

    classes: list[str] = Field(description="Nearest first.")
    subjects: int = Field(description="How many subjects they are of.")


class ExplainAnswer(SliceAnswer):
    """A slice, what the decision looked at, and what is known of similar slices."""

    slice: str = Field(description="What the model saw: a grayscale PNG as a data URL.")
    heat: str = Field(description="Grad-CAM of the most probable class over it, in the same way.")
    calibration: dict[str, ClassFrequency] | None = Field(description="In distribution only.")
    nearest: NearestSlices | None = Field(description="Null without the training data.")


class ModelAnswer(_Answer):
    """The model that answers."""

    name: str
    classes: list[str]
    image_size: int
    weights: str = Field(description="SHA-256 of the weights.")
    simulated: bool = Field(description="Trained on simulated slices: useless on real ones.")
    leaks: bool = Field(description="Split by slices: test subjects were seen in training.")
    reference: str | None = Field(description="Why there is no comparison with known slices.")
    card: str = Field(description="The model card, HTML.")
