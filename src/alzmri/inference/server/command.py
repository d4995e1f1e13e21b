"""``alzmri serve``."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str, typer.Option(envvar="ALZMRI_SERVE_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    model: Annotated[
        Path, typer.Option(envvar="ALZMRI_SERVE_MODEL", help="Folder of the trained model.")
    ] = Path("models"),
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the model. [default: one per processor]")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Answered at a time; others are told to come again.")
    ] = 32,
) -> None:
    """Serve the model over HTTP, with a page for the browser. Research software, no diagnosis.

    Examples: `alzmri serve`, then open http://127.0.0.1:8080, or
    `curl --data-binary @scan.jpg -H content-type:image/jpeg 127.0.0.1:8080/invocations`.
    """
    from alzmri.errors import UserError

    try:
        from alzmri.inference.server.run import run
    except ModuleNotFoundError as error:
        raise UserError(
            f"`alzmri serve` needs {error.name}: pip install 'alzmri[serve]', or run `make setup`"
        ) from None
    run(host, port, model, threads, requests)
