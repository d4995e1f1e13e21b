"""`alzmri sagemaker`: the stage train on AWS, and its model as an endpoint."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from alzmri import aws, params, repository, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.sagemaker import sagemaker_settings

# Commands import the other modules when they run, because these load NumPy.

sagemaker_app = typer.Typer(
    no_args_is_help=True,
    help="Train and serve on AWS SageMaker: see sagemaker.yaml and docs/sagemaker.md.",
    epilog="alzmri sagemaker submit --wait && alzmri sagemaker fetch && dvc repro",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the request; send and change nothing.")
]
Name = Annotated[str | None, typer.Argument(help="The job. [default: the latest]")]


@sagemaker_app.command()
def submit(
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
) -> None:
    """Train with params.yaml and data/prepared of this checkout.

    If an equal job is running or complete, it makes no new job and prints the name of that one.

    Examples:

        alzmri sagemaker submit --dry-run

        alzmri sagemaker submit --wait
    """
    from alzmri.sagemaker import job_request, training_job

    settings = sagemaker_settings.load(sagemaker_settings.TO_TRAIN, placeholders=dry_run)
    work = job_request.gather(params.load())
    if work.changes:
        terminal.warn(
            "the code differs from the commit; the job gets it as it is, without untracked files"
            " behind:\n  " + "\n  ".join(work.changes)
        )
    if dry_run:
        with TemporaryDirectory(prefix="alzmri-") as temporary:
            job_request.pack(work, Path(temporary) / "code.tar.gz")
        _print_json(job_request.build(settings, work, job_request.job_name(work)))
        return
    session = aws.session(settings.region)
    made = training_job.submit(session, settings, work)
    terminal.say(f"job      {made}")
    terminal.say(f"console  {training_job.console(settings.region, made)}")
    if wait:
        training_job.follow(session, made)
    else:
        terminal.say(f"follow   alzmri sagemaker logs {made} --follow")
    terminal.say(f"then     alzmri sagemaker fetch {made}")


@sagemaker_app.command()
def status(name: Name = None, as_json: AsJson = False) -> None:
    """Show the status of a job; the exit status is 1 if it failed or was stopped."""
    from alzmri.sagemaker import training_job

    session = _session()
    job = training_job.find(session, name)
    facts = training_job.facts(job)
    facts["console"] = training_job.console(session.region_name, facts["job"])
    if as_json:
        _print_json({"state": job["TrainingJobStatus"], **facts})
    else:
        for word, value in facts.items():
            terminal.say(f"{word:<20} {value}")
    training_job.require_success(job)


@sagemaker_app.command()
def logs(
    name: Name = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until the job ends.")
    ] = False,
) -> None:
    """Print the output of the containers."""
    from alzmri.sagemaker import training_job

    session = _session()
    job = training_job.find(session, name)["TrainingJobName"]
    if follow:
        training_job.follow(session, job)
        terminal.say(f"{job} completed: `alzmri sagemaker fetch {job}`")
        return
    for line in training_job.new_lines(session.client("logs"), job, {}):
        terminal.say(line)


@sagemaker_app.command()
def stop(name: Name = None) -> None:
    """Stop a job after it has saved a checkpoint. Submit the same again to continue."""
    from alzmri.sagemaker import training_job

    session = _session()
    job = training_job.find(session, name)["TrainingJobName"]
    with aws.explained():
        session.client("sagemaker").stop_training_job(TrainingJobName=job)
    terminal.say(f"{job} is stopping: it saves its checkpoint first")


@sagemaker_app.command()
def fetch(name: Name = None) -> None:
    """Fetch a job's model, history and scores, and commit them to DVC."""
    from alzmri.sagemaker import job_request, training_job

    session = _session()
    job = training_job.find(session, name)
    scores = training_job.bring(session, job, job_request.gather(params.load()))
    words = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "train"]
    if subprocess.run(words, check=False).returncode:
        raise EnvironmentFault(
            "the model is in place, but `dvc commit --force train` failed (see above): correct the"
            " cause, and run that command again"
        )
    name, f1 = job["TrainingJobName"], f"{scores['val_macro_f1']:.4f}"
    terminal.say(f"{name}: best epoch {scores['best_epoch']}, validation macro F1 {f1}")
    terminal.say(f"score it with `dvc repro`, keep it with `dvc exp save --name {name}`")


@sagemaker_app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """Show the latest 20 jobs of alzmri."""
    from alzmri.sagemaker import training_job

    jobs = [
        {
            "job": found["TrainingJobName"],
            "state": found["TrainingJobStatus"],
            "created": f"{found['CreationTime'].astimezone():%Y-%m-%d %H:%M}",
        }
        for found in training_job.listed(_session(), count=20)
    ]
    if as_json:
        _print_json(jobs)
    else:
        for job in jobs:
            terminal.say(f"{job['created']}  {job['state']:<10}  {job['job']}")


@sagemaker_app.command()
def deploy(
    serverless: Annotated[
        bool, typer.Option("--serverless", help="Pay per request, without an instance.")
    ] = False,
    dry_run: DryRun = False,
    version: Annotated[
        str | None,
        typer.Option(help="A registered version, such as v0.1.0.", show_default="models/"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The registered version with this stage, such as prod.")
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Serve a model even if its split LEAKS.")
    ] = False,
) -> None:
    """Serve the model as an endpoint, or replace the model of an existing one.

    Examples:

        alzmri sagemaker deploy --serverless --dry-run

        alzmri sagemaker deploy --stage prod
    """
    from alzmri.sagemaker import endpoint

    if version and stage:
        raise UserError("--version and --stage exclude each other: give one of them")
    settings = sagemaker_settings.load(sagemaker_settings.TO_SERVE, placeholders=dry_run)
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        folder = Path("models")
        if version or stage:
            folder = Path(temporary) / "models"
            endpoint.registered(version, stage, folder)
        asked = endpoint.build(settings, folder, serverless=serverless, allow_leak=allow_leak)
        if dry_run:
            _print_json(asked)
            return
        made = endpoint.deploy(aws.session(settings.region), folder, asked)
    terminal.say(f"endpoint {settings.endpoint} {'serves' if made else 'serves it already'}")
    terminal.say("ask      alzmri sagemaker invoke IMAGE")


@sagemaker_app.command()
def invoke(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=repository.located)],
) -> None:
    """Send one slice to the endpoint; print its answer as JSON. Research software; no diagnosis."""
    from alzmri.sagemaker import endpoint

    settings = sagemaker_settings.load(["region"])
    _print_json(endpoint.invoke(aws.session(settings.region), settings.endpoint, image))


@sagemaker_app.command()
def undeploy() -> None:
    """Remove the endpoint, its configuration and its model, so that billing stops."""
    from alzmri.sagemaker import endpoint

    settings = sagemaker_settings.load(["region"])
    endpoint.undeploy(aws.session(settings.region), settings.endpoint)
    terminal.say(f"endpoint {settings.endpoint} is removed")


def _session() -> Any:
    return aws.session(sagemaker_settings.load(["region"]).region)


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2))
