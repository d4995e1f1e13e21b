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
from alzmri.sagemaker import endpoint, job_request, training_job

sagemaker_app = typer.Typer(
    no_args_is_help=True,
    help="Train and serve on AWS SageMaker: see sagemaker.yaml and docs/sagemaker.md.",
    epilog="alzmri sagemaker submit --wait && alzmri sagemaker fetch && dvc repro",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the request; change nothing.")]
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
    settings = job_request.load_settings(job_request.TO_TRAIN, placeholders=dry_run)
    work = job_request.gather(params.load())
    if work.changes:
        differ = "the code differs from the commit; the job gets it, but no untracked files:"
        terminal.warn("\n  ".join([differ, *work.changes]))
    if dry_run:
        terminal.say(_json(job_request.build(settings, work, job_request.job_name(work))))
        return
    session = aws.session(settings.region)
    made = training_job.submit(session, settings, work)
    terminal.say(f"job      {made}\nconsole  {training_job.console(settings.region, made)}")
    if wait:
        training_job.follow(session, made)
    else:
        terminal.say(f"follow   alzmri sagemaker logs {made} --follow")
    terminal.say(f"then     alzmri sagemaker fetch {made}")


@sagemaker_app.command()
def status(name: Name = None, as_json: AsJson = False) -> None:
    """Show the status of a job; the exit status is 1 if it failed or was stopped."""
    session, job = _job(name)
    facts = training_job.facts(job)
    facts["console"] = training_job.console(session.region_name, facts["job"])
    text = "\n".join(f"{word:<20} {value}" for word, value in facts.items())
    terminal.say(_json({"state": job["TrainingJobStatus"], **facts}) if as_json else text)
    training_job.require_success(job)


@sagemaker_app.command()
def logs(
    name: Name = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print the output of the containers."""
    session, found = _job(name)
    job = found["TrainingJobName"]
    if follow:
        training_job.follow(session, job)
        terminal.say(f"{job} completed: `alzmri sagemaker fetch {job}`")
    else:
        training_job.say_lines(session.client("logs"), job, {})


@sagemaker_app.command()
def stop(name: Name = None) -> None:
    """Stop a job after it has saved a checkpoint. Submit the same again to continue."""
    session, found = _job(name)
    job = found["TrainingJobName"]
    with aws.explained():
        session.client("sagemaker").stop_training_job(TrainingJobName=job)
    terminal.say(f"{job} is stopping: it saves its checkpoint first")


@sagemaker_app.command()
def fetch(name: Name = None) -> None:
    """Fetch a job's model, history and scores, and commit them to DVC."""
    session, found = _job(name)
    scores = training_job.bring(session, found, job_request.gather(params.load()))
    words = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "train"]
    if subprocess.run(words, check=False).returncode:
        raise EnvironmentFault(
            "the model is in place, but `dvc commit --force train` failed (see above): correct the"
            " cause, and run that command again"
        )
    job, f1 = found["TrainingJobName"], f"{scores['val_macro_f1']:.4f}"
    terminal.say(f"{job}: best epoch {scores['best_epoch']}, validation macro F1 {f1}")
    terminal.say(f"score it with `dvc repro`, keep it with `dvc exp save --name {job}`")


@sagemaker_app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """Show the latest 20 jobs of alzmri."""
    jobs = [
        {
            "created": f"{found['CreationTime'].astimezone():%Y-%m-%d %H:%M}",
            "state": found["TrainingJobStatus"],
            "job": found["TrainingJobName"],
        }
        for found in training_job.listed(_session()[0], count=20)
    ]
    if as_json:
        terminal.say(_json(jobs))
        return
    for job in jobs:
        terminal.say(f"{job['created']}  {job['state']:<10}  {job['job']}")


@sagemaker_app.command()
def deploy(
    serverless: Annotated[bool, typer.Option("--serverless", help="Pay per request.")] = False,
    dry_run: DryRun = False,
    version: Annotated[str | None, typer.Option(help="Registered version, such as v0.1.0.")] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of a version, such as prod.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Serve a model even if its split LEAKS.")
    ] = False,
) -> None:
    """Serve models/, or a registered version, as an endpoint; replace its previous model.

    Examples:

        alzmri sagemaker deploy --serverless --dry-run

        alzmri sagemaker deploy --stage prod
    """
    if version and stage:
        raise UserError("--version and --stage exclude each other: give one of them")
    settings = job_request.load_settings(job_request.TO_SERVE, placeholders=dry_run)
    with TemporaryDirectory(prefix="alzmri-") as temporary:
        folder = Path("models")
        if version or stage:
            folder = Path(temporary) / "models"
            endpoint.registered(version, stage, folder)
        asked = endpoint.build(settings, folder, serverless=serverless, allow_leak=allow_leak)
        if dry_run:
            terminal.say(_json(asked))
            return
        made = endpoint.deploy(aws.session(settings.region), folder, asked)
    terminal.say(f"endpoint {settings.endpoint} {'serves' if made else 'serves it already'}")
    terminal.say("ask      alzmri sagemaker invoke IMAGE")


@sagemaker_app.command()
def invoke(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=repository.located)],
) -> None:
    """Send one slice to the endpoint; print its answer as JSON. Research software; no diagnosis."""
    terminal.say(_json(endpoint.invoke(*_session(), image)))


@sagemaker_app.command()
def undeploy() -> None:
    """Remove the endpoint, its configuration and its model, so that billing stops."""
    session, name = _session()
    endpoint.undeploy(session, name)
    terminal.say(f"endpoint {name} is removed")


def _session() -> tuple[Any, str]:
    settings = job_request.load_settings(["region"])
    return aws.session(settings.region), settings.endpoint


def _job(name: str | None) -> tuple[Any, aws.Answer]:
    session, _ = _session()
    return session, training_job.find(session, name)


def _json(content: object) -> str:
    return json.dumps(content, indent=2)
