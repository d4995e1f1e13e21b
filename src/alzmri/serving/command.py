"""``alzmri serve``."""

from pathlib import Path
from typing import Annotated

import typer

from alzmri import repository


def serve(
    host: Annotated[
        str, typer.Option(envvar="ALZMRI_SERVE_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    model: Annotated[
        Path,
        typer.Option(
            envvar="ALZMRI_SERVE_MODEL",
            help="Folder of the trained model.",
            callback=repository.located,
        ),
    ] = Path("models"),
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the model.", show_default="one per processor")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Maximum concurrent requests; more get HTTP 503.")
    ] = 128,
) -> None:
    """Serve the model over HTTP, with a page for the browser. Research software; no diagnosis.

    The page shows probabilities, where the model looked and which training slices are alike. On
    SIGTERM or Ctrl-C it answers what it has begun, then ends.

    Examples:

        alzmri serve

        curl -H content-type:image/jpeg --data-binary @scan.jpg 127.0.0.1:8080/invocations
    """
    from alzmri.errors import EnvironmentFault

    try:
        from alzmri.serving.run import run
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"{error.name} is not installed: pip install -e '.[serve]'"
        ) from None
    run(host, port, model, threads, requests)
