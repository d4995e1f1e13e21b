"""The commands ``alzmri predict``, ``explain`` and ``export``."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from alzmri import repository, terminal
from alzmri.errors import UserError
from alzmri.inference import NOTICE

# Commands import their modules when they run, because these load torch.
if TYPE_CHECKING:
    from alzmri.inference.predictor import PredictionReport

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Images, volumes, series, folders, globs.")
]
ModelFolder = Annotated[
    Path,
    typer.Option("--model", help="Folder of the trained model.", callback=repository.located),
]


def predict(
    paths: Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    model: ModelFolder = Path("models"),
    by_folder: Annotated[
        bool, typer.Option("--by-folder", help="Images of a folder are one subject: add the mean.")
    ] = False,
) -> None:
    """Predict class probabilities of slices and volumes. Research software; no diagnosis.

    An image that is unlike the training slices is out of distribution and gets no class. Files that
    cannot be used are reported and skipped; the exit status is then 1 (2 if no file can be used).
    A volume or series is one subject. Images carry no subject ID, except with --by-folder.

    Examples:

        alzmri predict scan.jpg

        alzmri predict subjects/ --by-folder --csv > probabilities.csv

        alzmri predict 'study/**/*.nii.gz' --json | jq '.subjects'
    """
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other: give one of them")
    report = _predict(paths, model, by_folder)
    if as_json:
        print(json.dumps(report.as_json(), indent=2, allow_nan=False))
    elif as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(report.as_csv())
    else:
        terminal.out.print(report.table())
        inside = int(report.prediction.in_distribution.sum())
        counts = f"{inside} of {len(report.slices)} slices in distribution (OOD score up to 1.00)"
        refused = f"; inputs refused: {len(report.refused)}" if report.refused else ""
        terminal.out.print(f"{counts}{refused}\n{NOTICE}")
    raise typer.Exit(bool(report.refused))


def explain(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="Folder for pictures and maps.")],
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain. [default: the most probable]")
    ] = None,
    model: ModelFolder = Path("models"),
) -> None:
    """Show where the model looks, by Grad-CAM. Research software; no diagnosis.

    It writes an overlay (PNG) and the raw map (NPY, float32) for each slice, and lists them in
    index.csv. The exit status is that of predict.

    Examples:

        alzmri explain scan.jpg --out why

        alzmri explain subject.nii.gz --out why --class "Mild Demented"
    """
    report = _predict(paths, model)
    from alzmri.inference.explain import INDEX, write

    classes = report.predictor.classes
    if target not in (None, *classes):
        raise UserError(f"--class {target!r}: the model's classes are {', '.join(classes)}")
    written = write(out, report, None if target is None else classes.index(target))
    terminal.out.print(f"{written} pictures and maps: {escape(str(out / INDEX))}\n{NOTICE}")
    raise typer.Exit(bool(report.refused))


def export(
    model: ModelFolder = Path("models"),
    out: Annotated[
        Path | None,
        typer.Option(help="ONNX file. [default: MODEL/model.onnx]", callback=repository.located),
    ] = None,
) -> None:
    """Write the model as ONNX, checked against PyTorch on the test slices of data/prepared.

    To export in the pipeline, under DVC: dvc exp run -S 'export.formats=[onnx]'.

    Examples:

        alzmri export

        alzmri export --out /srv/model.onnx
    """
    from alzmri import params
    from alzmri.data.prepared import Prepared
    from alzmri.inference import onnx_export

    path = out or model / "model.onnx"
    _, said = onnx_export.export(model, path, Prepared.open(params.load()))
    terminal.out.print(said, markup=False)


def _predict(paths: list[str], model: Path, by_folder: bool = False) -> "PredictionReport":
    """Read the inputs ``paths`` and predict; report unusable ones on stderr."""
    import numpy as np

    from alzmri.data.images import Unreadable
    from alzmri.inference import inputs
    from alzmri.inference.predictor import PredictionReport, Predictor

    predictor = Predictor.load(model)
    sources = inputs.find(paths)
    found: list[inputs.InputSlice] = []
    refused: list[tuple[str, str]] = []
    with terminal.progress("reading") as progress:
        for done, source in enumerate(sources, start=1):
            try:
                found += inputs.read(source, predictor.preprocess, by_folder=by_folder)
            except Unreadable as error:
                refused.append((source.name, str(error)))
                terminal.warn(f"{source.name}: {error}")
            progress(done, len(sources))
    if not found:
        raise UserError(f"none of the {len(sources)} inputs can be used")
    with terminal.progress("predicting") as progress:
        prediction = predictor.predict(np.stack([item.pixels for item in found]), progress)
    return PredictionReport(predictor, found, prediction, refused)
