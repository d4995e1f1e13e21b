"""`alzmri sagemaker`: the stage train on AWS, and its model as an endpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alzmri import repository, terminal
from alzmri.errors import UserError

# The modules behind the commands load boto3 and NumPy: not before a command runs.
if TYPE_CHECKING:
    from alzmri.sagemaker.service import Service

sagemaker_app = typer.Typer(
    no_args_is_help=True,
    help="Train and serve on AWS SageMaker; sagemaker.yaml says where, docs/sagemaker.md how.",
    epilog="alzmri sagemaker submit --wait && alzmri sagemaker fetch && dvc repro",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
EndpointName = Annotated[
    str | None, typer.Option("--name", help="The endpoint is alzmri-NAME; without it, alzmri.")
]
LAST_LINES = 10
"""Of a failed job's log: the cause is there."""
Name = Annotated[str | None, typer.Argument(help="The job; without it, our latest.")]


@sagemaker_app.command()
def submit(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the request; send and change nothing.")
    ] = False,
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
    import json

    from alzmri import params
    from alzmri.sagemaker import bundle, job, request, settings
    from alzmri.sagemaker.service import Service

    wanted = settings.load()
    if dry_run:
        wanted = settings.with_placeholders(wanted)
    else:
        settings.require(wanted)
    work = request.gather(wanted, params.load())
    if changes := work.code.changes:
        terminal.warn(
            "the code differs from the commit; it goes as it is here, files unknown to git stay"
            " behind:\n  " + "\n  ".join(changes)
        )
    if dry_run:
        bundle.pack(work.code)
        named = request.named(name) if name else request.job_name(work)
        typer.echo(json.dumps(request.build(wanted, work, named), indent=2))
        return

    service = Service(wanted.region)
    made = job.submit(service, wanted, work, name)
    _say(f"job      {made.name}")
    _say(f"console  {job.console(wanted.region, made.name)}")
    if wait:
        _follow(service, made.name)
    else:
        _say(f"follow   alzmri sagemaker logs {made.name} --follow")
        _say(f"then     alzmri sagemaker fetch {made.name}")


@sagemaker_app.command()
def status(name: Name = None, as_json: AsJson = False) -> None:
    """Say how a job is doing; exit status 1 when it failed or was stopped."""
    import json

    from alzmri.sagemaker.job import Log, console, describe, latest

    service = _service()
    job = describe(service, name or latest(service))
    lines = Log(service, job.name).new_lines() if job.status == "Failed" else ()
    last = list(lines)[-LAST_LINES:]
    facts = [*job.lines(), ("console", console(service.region, job.name))]
    if as_json:
        kept = {"state": job.status, **dict(facts), "last_lines": last}
        typer.echo(json.dumps(kept, indent=2))
    else:
        for word, value in facts:
            _say(f"{word:<20} {value}")
        for line in last:
            _say(f"  {line}")
    job.require_success()


@sagemaker_app.command()
def logs(
    name: Name = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends.")
    ] = False,
) -> None:
    """Print what the containers print."""
    from alzmri.sagemaker.job import Log, latest

    service = _service()
    job = name or latest(service)
    if follow:
        _follow(service, job)
    else:
        for line in Log(service, job).new_lines():
            terminal.say(line)


@sagemaker_app.command()
def stop(name: Name = None) -> None:
    """Have a job save its checkpoint and end; the same submitted again goes on from there."""
    from alzmri.sagemaker.job import latest
    from alzmri.sagemaker.job import stop as ask

    service = _service()
    job = name or latest(service)
    ask(service, job)
    _say(f"{job} is stopping: it saves its checkpoint first")


@sagemaker_app.command()
def fetch(name: Name = None) -> None:
    """Bring a job's model, history and scores here, and commit them to DVC."""
    from alzmri import params
    from alzmri.sagemaker import request, settings
    from alzmri.sagemaker.fetch import fetch as bring
    from alzmri.sagemaker.job import describe, latest

    service = _service()
    job = describe(service, name or latest(service))
    scores = bring(service, job, request.gather(settings.load(), params.load()))
    _say(
        f"{job.name}: best epoch {scores['best_epoch']}, validation macro F1"
        f" {scores['val_macro_f1']:.4f}"
    )
    _say(f"score it with `dvc repro`, keep it with `dvc exp save --name {job.name}`")


@sagemaker_app.command("list")
def list_jobs(
    count: Annotated[int, typer.Option(min=1, max=100, help="How many, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show our latest jobs."""
    import json

    from alzmri.sagemaker.job import listed

    jobs = [
        {
            "job": job["TrainingJobName"],
            "state": job["TrainingJobStatus"],
            "created": job["CreationTime"].astimezone().isoformat(timespec="minutes"),
        }
        for job in listed(_service(), count=count)
    ]
    if as_json:
        typer.echo(json.dumps(jobs, indent=2))
        return
    for job in jobs:
        _say(f"{job['created'][:16].replace('T', ' ')}  {job['state']:<10}  {job['job']}")


@sagemaker_app.command()
def deploy(
    serverless: Annotated[
        bool, typer.Option("--serverless", help="Bill by the request, with no instance.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the requests; send and change nothing.")
    ] = False,
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
    import json
    from tempfile import TemporaryDirectory

    from alzmri.sagemaker import deploy, settings

    if version and stage:
        raise UserError("--version and --stage exclude each other: choose one")
    wanted = settings.load()
    if dry_run:
        wanted = settings.with_placeholders(wanted, settings.TO_SERVE)
    else:
        settings.require(wanted, settings.TO_SERVE)
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        folder = Path("models")
        if version or stage:
            folder = Path(temporary) / "models"
            deploy.registered(version, stage, folder)
        deployment = deploy.prepare(
            wanted, folder, _endpoint(name), serverless=serverless, leaking=allow_leak
        )
        if dry_run:
            requests = {
                "CreateModel": deployment.model,
                "CreateEndpointConfig": deployment.configuration,
                "CreateEndpoint": deployment.endpoint,
            }
            typer.echo(json.dumps(requests, indent=2))
            return
        made = deploy.deploy(_service(), wanted, deployment)
    _say(f"endpoint {deployment.name} {'serves' if made else 'serves it already'}")
    _say(f"ask      alzmri sagemaker invoke IMAGE{f' --name {name}' * bool(name)}")


@sagemaker_app.command()
def invoke(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=repository.located)],
    name: EndpointName = None,
) -> None:
    """Print what an endpoint says of one slice, as JSON. Research software; no diagnosis."""
    import json

    from alzmri.sagemaker.deploy import invoke as ask

    typer.echo(json.dumps(ask(_service(), _endpoint(name), image), indent=2))


@sagemaker_app.command()
def undeploy(name: EndpointName = None) -> None:
    """Remove an endpoint, its configuration and its model; nothing is billed any more."""
    from alzmri.sagemaker.deploy import undeploy as remove

    remove(_service(), _endpoint(name))
    _say(f"endpoint {_endpoint(name)} is removed")


def _endpoint(label: str | None) -> str:
    from alzmri.sagemaker.request import named

    return "alzmri" if label is None else named(label)


def _service() -> "Service":
    from alzmri.sagemaker import settings
    from alzmri.sagemaker.service import Service

    loaded = settings.load()
    settings.require(loaded, ["region"])
    return Service(loaded.region)


def _follow(service: "Service", name: str) -> None:
    from alzmri.sagemaker.job import follow

    _say(f"{name} completed in {follow(service, name).age}: `alzmri sagemaker fetch {name}`")


def _say(line: str) -> None:
    terminal.out.print(line, markup=False)
