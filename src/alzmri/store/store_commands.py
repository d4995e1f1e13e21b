"""`alzmri store`: the S3 remote of this repository."""

import json
import shutil
from contextlib import suppress
from typing import Annotated, Any

import typer

from alzmri import aws, repository, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.store.remotes import HIGHEST_PORT, LOWEST_PORT

GRACE_SECONDS = 60  # for the processes of a stopped command to save their work

store_app = typer.Typer(
    no_args_is_help=True, help="The S3 remote: a server on this machine, AWS, or any S3."
)

# Commands import their modules when they run, because these load botocore, psutil and DVC.


@store_app.command()
def up(
    port: Annotated[
        int | None,
        typer.Option(
            min=LOWEST_PORT,
            max=HIGHEST_PORT,
            help="First of five ports; remembered. [default: 8333]",
        ),
    ] = None,
) -> None:
    """Start the local S3 server, unless it is up."""
    from alzmri.store import remotes, server

    root = repository.find()
    remote = remotes.default(root)
    if not remote.is_local:
        raise UserError(f"this repository uses {remote.url}: run `alzmri store use local` first")
    remote, done = server.up(root, port)
    terminal.out.print(f"store {done}: {remote.url} at {remote.endpoint}")


@store_app.command()
def down() -> None:
    """Stop the local S3 server; its data stay."""
    from alzmri.store import server

    stopped = server.down(repository.find())
    terminal.out.print("store stopped" if stopped else "store was not running")


@store_app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show whether the remote answers; the exit status is 1 if it does not."""
    from alzmri.store import remotes, server

    root = repository.find()
    remote = remotes.default(root)
    found: dict[str, Any] = {"remote": remote.name, "url": remote.url}
    found |= {"bucket": aws.split(remote.url)[0], "endpoint": remote.endpoint}
    running = server.find(root) if remote.is_local else None
    if remote.is_local:
        found["process"] = running.process.pid if running else None
        found["folder"] = str(server.folder(root))
        found["filer_port"] = running.port + server.PARTS.index("filer") if running else None
    found["answers"] = True
    try:
        remote.check()
    except remotes.StoreUnavailable as error:
        why = str(error)
        if remote.is_local and not running:
            why = "the local store is not running: run `alzmri store up`"
        found |= {"answers": False, "error": why}
    if as_json:
        terminal.say(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            terminal.say(f"{name.replace('_', ' '):<12}{'–' if value is None else value}")
    if not found["answers"]:
        raise EnvironmentFault(found["error"])


@store_app.command()
def use(
    address: Annotated[str, typer.Argument(help="s3://bucket/prefix, or the word local.")],
    profile: Annotated[
        str | None, typer.Option(help="Profile in ~/.aws; stays on this machine.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="The bucket's region.")] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="For an S3 that is not AWS.")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Others pull without keys; only you push.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Ask the bucket before anything changes.")] = True,
) -> None:
    """Use another S3 address for data, or the store on this machine again."""
    from alzmri.store import remotes

    root = repository.find()
    if address == "local":
        if profile or region or endpoint_url or public:
            raise UserError("`alzmri store use local` takes no profile, region or other option")
        remotes.use_local(root)
        terminal.say("using the store on this machine: `alzmri store up` starts it")
        return
    remotes.use_team(root, address, profile, region, endpoint_url, public=public, check=check)
    terminal.say(f"using {address}: commit .dvc/config to tell the others")


@store_app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="After `--`.")],
) -> None:
    """Run a command with the store up; stop the local store after it if it was down before."""
    import psutil

    from alzmri.store import remotes, server

    if shutil.which(command[0]) is None:
        raise UserError(f"no such command: {command[0]}")
    root = repository.find()
    remote = remotes.default(root)
    started = remote.is_local and server.find(root) is None
    try:
        if remote.is_local:
            server.up(root)
        else:
            remote.check()
        process = psutil.Popen(command)
        try:
            status = int(process.wait())
        except BaseException as stopped:
            # Ctrl-C, or the exit that `terminal.start` makes of other signals.
            family = [process]
            with suppress(psutil.NoSuchProcess):
                family += process.children(recursive=True)
            try:
                if isinstance(stopped, KeyboardInterrupt):
                    # A terminal sends Ctrl-C to all. A second signal would end a training at once.
                    psutil.wait_procs(family, GRACE_SECONDS)
            finally:  # also when another signal ends the wait
                for member in family:  # a shell first, or it would go on
                    with suppress(psutil.NoSuchProcess):
                        member.terminate()
                psutil.wait_procs(family, GRACE_SECONDS)
            raise
    finally:
        if started:
            server.down(root)
    raise SystemExit(status if status >= 0 else 128 - status)
