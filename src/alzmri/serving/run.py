"""From the command's options to a server that runs until SIGTERM or Ctrl-C."""

import errno
import gc
import os
import socket
from dataclasses import replace
from pathlib import Path

import uvicorn
from threadpoolctl import threadpool_limits

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import NOTICE
from alzmri.serving import app, service, telemetry
from alzmri.serving.limits import Limits, Protocol


def run(host: str, port: int, folder: Path, threads: int | None, requests: int) -> None:
    """Serve until SIGTERM or Ctrl-C; what has begun is then finished first.

    Raises:
        UserError: the address is taken, or not this machine's, or the port is reserved.
    """
    # The model's threads fill the processors: with several of its own, BLAS would wait for them.
    threadpool_limits(1, "blas")
    limits = replace(Limits(), requests=requests)
    threads = threads or len(os.sched_getaffinity(0))
    with _listen(host, port) as listener:
        loaded = service.load(folder, threads)
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app.create(loaded, host, limits, threads),
            http=Protocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=limits.drain,
        )
        telemetry.start_logging()
        if loaded.absent:
            terminal.warn(f"no comparison with known slices: {loaded.absent}")
        terminal.say(f"serving {folder} at {address} (Ctrl-C stops). {NOTICE}")
        _spare_the_garbage_collector()
        _until_stopped(uvicorn.Server(config), listener)


def _until_stopped(server: uvicorn.Server, listener: socket.socket) -> None:
    """Being stopped is how a server ends well: uvicorn repeats the signal after its own work."""
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if not server.should_exit:
            raise EnvironmentFault("the server did not start: see the lines above") from None


def _spare_the_garbage_collector() -> None:
    """Do not search again and again what is loaded by now and stays: 3 to 5 % of the throughput."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        where = f"{host}, port {port}"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(f"{where}: taken; choose another with --port") from None
        raise UserError(f"cannot listen on {where}: {error}") from None
