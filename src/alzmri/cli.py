"""The ``alzmri`` command. Commands import what they need when they run: ``--help`` stays quick."""

from typing import Annotated

import typer

from alzmri import terminal
from alzmri.clinic.command import dicom
from alzmri.data.cli import data_app
from alzmri.doctor import doctor
from alzmri.experiments.cli import compare, fast, honest, protocol, results, review, sweep
from alzmri.inference.cli import explain, export, predict
from alzmri.inference.server.command import serve
from alzmri.sagemaker.cli import sagemaker_app
from alzmri.store.cli import store_app

app = typer.Typer(
    help="Classify four stages of Alzheimer's disease from brain MRI slices, honestly scored.",
    epilog="Experiments are DVC's: dvc repro, dvc exp run -S train.lr=0.0005, dvc plots diff.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.add_typer(sagemaker_app, name="sagemaker")
app.command()(doctor)
app.command()(honest)
app.command()(protocol)
app.command()(fast)
app.command()(sweep)
app.command()(compare)
app.command()(review)
app.command()(results)
app.command()(predict)
app.command()(explain)
app.command()(export)
app.command()(serve)
app.command()(dicom)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """``--debug`` is read by ``terminal.run``, which sees every error."""


@app.command(hidden=True)
def plots_page() -> None:
    """Write .dvc/plots.html, with which `dvc plots` makes pages that need no network."""
    from alzmri.plots_page import write

    write()


def main() -> None:
    """Entry point of the console script."""
    terminal.start(app)
