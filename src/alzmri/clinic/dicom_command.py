"""The command ``alzmri dicom``."""

import re
from pathlib import Path
from typing import Annotated

import typer

from alzmri import repository, terminal
from alzmri.errors import UserError, require
from alzmri.inference import NOTICE


def dicom(
    aet: Annotated[str, typer.Option(help="The node's own AE title.")] = "ALZMRI",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 11112,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with --accept.")
    ] = "127.0.0.1",
    send_to: Annotated[
        str | None,
        typer.Option(metavar="AET@HOST:PORT", help="Receives results; else they stay in --queue."),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(metavar="AET,…", help="AE titles that may send.", show_default="any here"),
    ] = None,
    model: Annotated[
        Path, typer.Option(help="Folder of the trained model.", callback=repository.located)
    ] = Path("models"),
    queue: Annotated[
        Path,
        typer.Option(help="Folder of waiting series: patient data.", callback=repository.located),
    ] = Path(".dicom"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything, in QUEUE/kept.")] = False,
    quiet_seconds: Annotated[
        float, typer.Option(min=0.1, help="A series is complete after this time without an image.")
    ] = 30,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics on this machine; 0: none.")
    ] = 11113,
) -> None:
    """Answer T1 series from a PACS with DICOM objects. Research software; no diagnosis.

    It receives MR images by C-STORE, predicts like `alzmri predict`, and sends a structured report
    and a picture with overlays into the same study. Patient data stays in the queue folder until
    its series is answered, and never enters the log. SIGTERM or Ctrl-C ends it; a new start
    continues.

    Examples:

        alzmri dicom --send-to ORTHANC@127.0.0.1:4242

        alzmri dicom --host 10.0.0.5 --accept PACS --send-to PACS@10.0.0.2:104
    """
    callers = [name.strip() for name in accept.split(",")] if accept else []
    receiver = re.fullmatch("(.+)@(.+):([0-9]{1,5})", send_to or "")
    if send_to and not (receiver and 0 < int(receiver[3]) < 2**16):
        raise UserError(f"--send-to {send_to!r}: write AET@HOST:PORT, such as PACS@10.0.0.2:104")
    for title in (aet, *callers, *([receiver[1]] if receiver else [])):
        if not title.strip() or len(title) > 16 or not title.isascii() or "\\" in title:
            raise UserError(f"{title!r}: an AE title has 1 to 16 ASCII characters")
    if not callers and host not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(f"--host {host} admits other machines: name the callers: --accept AET,…")
    for module in ("prometheus_client", "pydicom", "pynetdicom"):
        require(module, "clinic")
    from alzmri.clinic import dicom_node
    from alzmri.clinic.inbox import Inbox

    terminal.say(NOTICE)
    if receiver is None:
        terminal.warn(f"no --send-to: results stay in {queue / 'results'}")
    dicom_node.run(
        dicom_node.make_entity(aet, callers),
        (host, port),
        metrics_port,
        Inbox(queue, keep),
        (receiver[1], receiver[2], int(receiver[3])) if receiver else None,
        model,
        quiet_seconds,
    )
