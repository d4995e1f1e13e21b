"""Check of the remote that `dvc push` and `dvc pull` use."""

import os
from pathlib import Path

from alzmri.doctor.finding import Finding, fail, ok, warn
from alzmri.errors import UserError
from alzmri.store import server, settings
from alzmri.store.check import StoreUnavailable, check, proxied

_START = "run `alzmri store up`"


def remote(root: Path, *, may_be_down: bool) -> Finding:
    """The bucket answers; a local store that is down only warns: one command starts it."""
    data = server.folder(root)
    try:
        configured = settings.default(root)
        if configured.is_local and proxied(configured):
            message = "HTTP_PROXY sends even 127.0.0.1 to a proxy"
            return fail("store", message, "run `export NO_PROXY=127.0.0.1`")
        if configured.is_local and os.path.lexists(data) and not data.is_dir():
            return fail("store", f"{data} is no folder, but the store's data go there", "move it")
        check(configured)
    except UserError as error:
        return fail("store", str(error))
    except StoreUnavailable as error:
        if configured.is_local and server.find(root) is None:
            message = "the local store is not running"
            return ok("store", message) if may_be_down else warn("store", message, _START)
        return fail("store", str(error), "run `alzmri store status`")
    return ok("store", f"{configured.url} answers")
