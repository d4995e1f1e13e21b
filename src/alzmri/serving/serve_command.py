"""The command ``alzmri serve``, which runs until SIGTERM or Ctrl-C."""

import gc
import resource
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from alzmri import repository, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import NOTICE


def serve(
    host: Annotated[
        str, typer.Option(envvar="ALZMRI_SERVE_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    model: Annotated[
        Path,
        typer.Option(
            envvar="ALZMRI_SERVE_MODEL",
            help="Folder of the trained model.",
            callback=repository.located,
        ),
    ] = Path("models"),
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of the model.", show_default="one per processor"),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Maximum concurrent requests; more get HTTP 503.")
    ] = 128,
) -> None:
    """Serve the model over HTTP, with a page for the browser. Research software; no diagnosis.

    The page shows probabilities, where the model looked, and similar training slices. After SIGTERM
    or Ctrl-C the server completes running requests, then ends.

    Examples:

        alzmri serve

        curl -H content-type:image/jpeg --data-binary @scan.jpg 127.0.0.1:8080/invocations
    """
    try:
        import uvicorn
        from joblib import cpu_count
        from threadpoolctl import threadpool_limits

        from alzmri.serving import app, loaded_model, middleware
    except ModuleNotFoundError as error:
        name = error.name
        raise EnvironmentFault(f"{name} is not installed: pip install -e '.[serve]'") from None
    threadpool_limits(1, "blas")  # its threads would only compete with the model's
    limits = middleware.Limits(requests=requests)
    threads = threads or cpu_count()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # connections are files
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, 2**13)), most))
    with _listen(host, port) as listener:
        loaded = loaded_model.load(model, threads)
        config = uvicorn.Config(
            app.create(loaded, host, limits, threads),
            http=middleware.BoundedProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=limits.drain,
        )
        if loaded.absent:
            terminal.warn(f"nearest slices and calibration are off: {loaded.absent}")
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        terminal.say(f"serving {model} at {address} (Ctrl-C stops). {NOTICE}")
        # Everything loaded so far stays; excluding it from collection gives 3 to 5 % throughput.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        server = uvicorn.Server(config)
        try:
            server.run(sockets=[listener])
        except SystemExit:  # uvicorn repeats the signal; for a server it means success
            if not server.should_exit:
                raise EnvironmentFault("the server did not start: see the lines above") from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
        if sys.platform == "linux":  # ends connections that take nothing of an answer for 30 s
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        return listener
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without Python's addition
        where = f"cannot listen on {host}, port {port}: {reason}"
        raise UserError(f"{where}: choose others with --host and --port") from None
