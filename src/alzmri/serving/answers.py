"""The server's answers and refusals: JSON, always with the notice."""

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from alzmri.inference import NOTICE


def refusal(error: HTTPException) -> Response:
    """The response for ``error``, whose detail is one sentence for the user."""
    return JSONResponse(Problem(error=error.detail).model_dump(), error.status_code, error.headers)


def busy() -> HTTPException:
    """A new refusal: an exception that is raised again would collect frames."""
    return HTTPException(503, "the server is busy: try again in a second", {"Retry-After": "1"})


class _Answer(BaseModel):
    notice: str = NOTICE


class Problem(_Answer):
    """Why a request was refused."""

    error: str = Field(description="One sentence: what is wrong and what to do.")


class PredictedSlice(BaseModel):
    """The prediction for one slice."""

    predicted: str | None = Field(description="The most probable class; null out of distribution.")
    probabilities: dict[str, float] = Field(description="By class, least severe first; calibrated.")
    in_distribution: bool = Field(description="If not, the probabilities mean nothing.")
    ood_score: float = Field(description="Above 1 is out of distribution.")


class SliceAnswer(_Answer, PredictedSlice):
    """The answer to one slice."""


class SlicesAnswer(_Answer):
    """The answer to several slices, in the order sent."""

    images: list[PredictedSlice]
    mean: dict[str, float] | None = Field(description="Mean of the slices in distribution, if any.")


class VolumeSlice(BaseModel):
    """A slice of a volume."""

    depth: int = Field(description="Millimetres below the top of the brain.")
    slice: str = Field(description="What the model sees: a grayscale PNG as a data URL.")


class VolumeAnswer(_Answer):
    """The slices around the ventricles, lowest first; send each for its prediction."""

    slices: list[VolumeSlice]


class ClassFrequency(BaseModel):
    """The frequency of a class among test slices with a similar probability of it."""

    share: float
    low: float = Field(description="The 95 % interval's low end: Clopper-Pearson, by subjects.")
    high: float
    slices: int
    subjects: int


class NearestSlices(BaseModel):
    """The training slices with the most similar features."""

    classes: list[str] = Field(description="Nearest first.")
    subjects: int = Field(description="Number of subjects of these slices.")


class ExplainAnswer(SliceAnswer):
    """A prediction with Grad-CAM and similar known slices."""

    slice: str = Field(description="What the model saw: a grayscale PNG as a data URL.")
    heat: str = Field(description="The slice with Grad-CAM of its most probable class, likewise.")
    calibration: dict[str, ClassFrequency] | None = Field(description="In distribution only.")
    nearest: NearestSlices | None = Field(description="Null without the training data.")


class ModelAnswer(_Answer):
    """The served model."""

    name: str
    classes: list[str]
    image_size: int
    weights: str = Field(description="SHA-256 of the weights.")
    simulated: bool = Field(description="Trained on simulated slices: useless on real ones.")
    leaks: bool = Field(description="Test subjects were, or may have been, in training.")
    reference: str | None = Field(description="Why nearest slices and calibration are off.")
    card: str = Field(description="The model card, HTML.")
