"""Check of the remote that `dvc push` and `dvc pull` use."""

from pathlib import Path

from alzmri.doctor.finding import Finding, fail, ok, warn
from alzmri.errors import UserError
from alzmri.store import server, settings
from alzmri.store.check import StoreUnavailable, check, proxied

_START = "run `alzmri store up`"


def remote(root: Path, *, may_be_down: bool) -> Finding:
    """The bucket answers; a local store that is down only warns: one command starts it."""
    try:
        configured = settings.default(root)
        if configured.is_local and proxied(configured):
            message = "HTTP_PROXY sends even 127.0.0.1 to a proxy"
            return fail("store", message, "run `export NO_PROXY=127.0.0.1`")
        check(configured)
    except UserError as error:
        return fail("store", str(error), "run `alzmri store use local` or name a bucket")
    except StoreUnavailable as error:
        if configured.is_local and server.find(root) is None:
            message = "the local store is not running"
            return ok("store", message) if may_be_down else warn("store", message, _START)
        return fail("store", str(error), "run `alzmri store status`")
    return ok("store", f"{configured.url} answers")
