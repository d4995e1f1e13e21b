"""The ``alzmri`` command. Commands import modules when they run, so that ``--help`` is quick."""

import json
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from alzmri import __version__, repository, terminal
from alzmri.clinic.dicom_command import dicom
from alzmri.collections.data_commands import data_app
from alzmri.experiments import experiment_commands as experiments
from alzmri.inference.predict_commands import explain, export, predict
from alzmri.sagemaker.sagemaker_commands import sagemaker_app
from alzmri.serving.serve_command import serve
from alzmri.store.store_commands import store_app

IN_PLACE = {"predict", "explain", "store"}
"""Commands that run in the user's folder, because they take the user's files or command."""


class _WholeSentences(TyperGroup):
    """Show the whole first sentence of each command's help, even on a narrow terminal."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, of.get_short_help_str(500)) for name, of in commands if not of.hidden]
            )


app = typer.Typer(
    cls=_WholeSentences,
    help="Classify stages of Alzheimer's disease from brain MRI slices, evaluated by subject.",
    epilog="DVC runs the experiments: dvc repro, dvc exp run -S train.lr=0.0005, dvc plots diff.",
    no_args_is_help=True,
    rich_markup_mode=None,  # markup would drop [brackets] in a help text
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)
for name, group in {"data": data_app, "store": store_app, "sagemaker": sagemaker_app}.items():
    app.add_typer(group, name=name, cls=_WholeSentences)
for command in (
    *(experiments.honest, experiments.protocol, experiments.sweep),
    *(experiments.compare, experiments.review, experiments.results),
    *(predict, explain, export, serve, dicom),
):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"alzmri {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """``terminal.run``, which sees every error, reads ``--debug``."""
    if context.invoked_subcommand not in IN_PLACE:
        repository.enter(context)


@app.command()
def doctor(
    before_run: Annotated[bool, typer.Option("--before-run", help="Print problems only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check everything that could stop a run, and name remedies.

    The exit status is 1 if a check fails.
    """
    from alzmri.doctor import examine

    console = terminal.err if before_run else terminal.out
    shown = []
    for finding in examine(before_run=before_run):
        if before_run and finding.level == "ok":
            continue
        shown.append(finding)
        if not as_json:
            colour = {"ok": "green", "warn": "yellow", "FAIL": "red"}[finding.level]
            console.print(f"[{colour}]{finding.level:>4}[/]  ", end="")
            console.print(f"{finding.subject}: {finding.message}", markup=False)
    if as_json:
        found = [{**finding._asdict(), "level": finding.level.lower()} for finding in shown]
        terminal.say(json.dumps(found, indent=2))
    if any(finding.level == "FAIL" for finding in shown):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script."""
    terminal.start(app)
