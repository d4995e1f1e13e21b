"""`alzmri sagemaker`: the stage train on AWS, and its model as an endpoint."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from alzmri import params, repository, terminal
from alzmri.errors import UserError

# The modules behind the commands load boto3 and NumPy: not before a command runs.

sagemaker_app = typer.Typer(
    no_args_is_help=True,
    help="Train and serve on AWS SageMaker; sagemaker.yaml says where, docs/sagemaker.md how.",
    epilog="alzmri sagemaker submit --wait && alzmri sagemaker fetch && dvc repro",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what is asked for; send and change nothing.")
]
EndpointName = Annotated[
    str | None, typer.Option("--name", help="The endpoint is alzmri-NAME; without it, alzmri.")
]
LAST_LINES = 10
"""Of a failed job's log: the cause is there."""
Name = Annotated[str | None, typer.Argument(help="The job; without it, our latest.")]


@sagemaker_app.command()
def submit(
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Make a new job alzmri-NAME, whether or not one does the same."),
    ] = None,
) -> None:
    """Train with params.yaml and data/prepared as they are here.

    A job that does the same and is under way or complete is named, and none made.

    Examples:

        alzmri sagemaker submit --dry-run

        alzmri sagemaker submit --wait
    """
    from alzmri.sagemaker import aws, bundle, job, request, settings

    complete = settings.with_placeholders if dry_run else settings.require
    wanted = complete(settings.load())
    work = request.gather(wanted, params.load())
    if changes := work.code.changes:
        terminal.warn(
            "the code differs from the commit; it goes as it is here, files unknown to git stay"
            " behind:\n  " + "\n  ".join(changes)
        )
    if dry_run:
        with TemporaryDirectory(prefix="alzmri-") as temporary:
            bundle.pack(work.code, Path(temporary) / "code.tar.gz")
        named = request.named(name) if name else request.job_name(work)
        typer.echo(json.dumps(request.build(wanted, work, named), indent=2))
        return
    session = aws.session(wanted.region)
    made = job.submit(session, wanted, work, name)
    _say(f"job      {made}")
    _say(f"console  {job.console(wanted.region, made)}")
    if wait:
        _follow(session, made)
    else:
        _say(f"follow   alzmri sagemaker logs {made} --follow")
        _say(f"then     alzmri sagemaker fetch {made}")


@sagemaker_app.command()
def status(name: Name = None, as_json: AsJson = False) -> None:
    """Say how a job is doing; exit status 1 when it failed or was stopped."""
    from alzmri.sagemaker import job

    session, name = _session_and_job(name)
    found = job.describe(session, name)
    state = found["TrainingJobStatus"]
    last = list(job.Log(session, name).new_lines())[-LAST_LINES:] if state == "Failed" else []
    facts = dict(job.facts(found)) | {"console": job.console(session.region_name, name)}
    if as_json:
        typer.echo(json.dumps({"state": state, **facts, "last_lines": last}, indent=2))
    else:
        for word, value in facts.items():
            _say(f"{word:<20} {value}")
        for line in last:
            _say(f"  {line}")
    job.require_success(found)


@sagemaker_app.command()
def logs(
    name: Name = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends.")
    ] = False,
) -> None:
    """Print what the containers print."""
    from alzmri.sagemaker import job

    session, name = _session_and_job(name)
    if follow:
        _follow(session, name)
        return
    for line in job.Log(session, name).new_lines():
        terminal.say(line)


@sagemaker_app.command()
def stop(name: Name = None) -> None:
    """Have a job save its checkpoint and end; the same submitted again goes on from there."""
    from alzmri.sagemaker import job

    session, name = _session_and_job(name)
    job.stop(session, name)
    _say(f"{name} is stopping: it saves its checkpoint first")


@sagemaker_app.command()
def fetch(name: Name = None) -> None:
    """Bring a job's model, history and scores here, and commit them to DVC."""
    from alzmri.sagemaker import job, request, settings
    from alzmri.sagemaker.fetch import fetch as bring

    session, name = _session_and_job(name)
    work = request.gather(settings.load(), params.load())
    scores = bring(session, job.describe(session, name), work)
    f1 = f"{scores['val_macro_f1']:.4f}"
    _say(f"{name}: best epoch {scores['best_epoch']}, validation macro F1 {f1}")
    _say(f"score it with `dvc repro`, keep it with `dvc exp save --name {name}`")


@sagemaker_app.command("list")
def list_jobs(
    count: Annotated[int, typer.Option(min=1, max=100, help="How many, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show our latest jobs."""
    from alzmri.sagemaker import job

    jobs = [
        {
            "job": found["TrainingJobName"],
            "state": found["TrainingJobStatus"],
            "created": found["CreationTime"].astimezone().isoformat(timespec="minutes"),
        }
        for found in job.listed(_session(), count=count)
    ]
    if as_json:
        typer.echo(json.dumps(jobs, indent=2))
        return
    for found in jobs:
        _say(f"{found['created'][:16].replace('T', ' ')}  {found['state']:<10}  {found['job']}")


@sagemaker_app.command()
def deploy(
    serverless: Annotated[
        bool, typer.Option("--serverless", help="Bill by the request, with no instance.")
    ] = False,
    dry_run: DryRun = False,
    version: Annotated[
        str | None,
        typer.Option(help="A registered version, such as v0.1.0.", show_default="models/"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The registered version that has this stage, such as prod.")
    ] = None,
    name: EndpointName = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Serve a model whose split LEAKS all the same.")
    ] = False,
) -> None:
    """Serve the model as an endpoint, or replace the model of one that is there.

    Examples:

        alzmri sagemaker deploy --serverless --dry-run

        alzmri sagemaker deploy --stage prod
    """
    from alzmri.sagemaker import deploy, settings

    if version and stage:
        raise UserError("--version and --stage exclude each other: choose one")
    complete = settings.with_placeholders if dry_run else settings.require
    wanted = complete(settings.load(), settings.TO_SERVE)
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        folder = Path("models")
        if version or stage:
            folder = Path(temporary) / "models"
            deploy.registered(version, stage, folder)
        asked = deploy.prepare(
            wanted, folder, _endpoint(name), serverless=serverless, leaking=allow_leak
        )
        if dry_run:
            typer.echo(json.dumps(asked, indent=2))
            return
        made = deploy.deploy(_session(), wanted, folder, asked)
    _say(f"endpoint {_endpoint(name)} {'serves' if made else 'serves it already'}")
    _say(f"ask      alzmri sagemaker invoke IMAGE{f' --name {name}' * bool(name)}")


@sagemaker_app.command()
def invoke(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=repository.located)],
    name: EndpointName = None,
) -> None:
    """Print what an endpoint says of one slice, as JSON. Research software; no diagnosis."""
    from alzmri.sagemaker import deploy

    typer.echo(json.dumps(deploy.invoke(_session(), _endpoint(name), image), indent=2))


@sagemaker_app.command()
def undeploy(name: EndpointName = None) -> None:
    """Remove an endpoint, its configuration and its model; nothing is billed any more."""
    from alzmri.sagemaker import deploy

    deploy.undeploy(_session(), _endpoint(name))
    _say(f"endpoint {_endpoint(name)} is removed")


def _endpoint(label: str | None) -> str:
    from alzmri.sagemaker.request import named

    return "alzmri" if label is None else named(label)


def _session() -> Any:
    from alzmri.sagemaker import aws, settings

    return aws.session(settings.require(settings.load(), ["region"]).region)


def _session_and_job(name: str | None) -> tuple[Any, str]:
    """The session, and the job that is meant."""
    from alzmri.sagemaker.job import latest

    session = _session()
    return session, name or latest(session)


def _follow(session: Any, name: str) -> None:
    from alzmri.sagemaker import job

    took = job.age(job.follow(session, name))
    _say(f"{name} completed in {took}: `alzmri sagemaker fetch {name}`")


def _say(line: str) -> None:
    terminal.out.print(line, markup=False)
