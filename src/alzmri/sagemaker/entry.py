"""What runs inside the container, as its first process: it unpacks the code and hands over to it.

In: the channels ``code`` (this file and ``code.tar.gz``) and ``prepared``, the hyperparameters, the
hosts. Out: ``/opt/ml/model`` with what the stage train writes and ``fetch.json``, the digests of it
and of the code; ``/opt/ml/output/failure`` with the reason when it fails; status 0 for success.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html

This module, `container` and `program` import the standard library only: nothing else is there yet.
"""

import shutil
import signal
import sys
import tarfile
from pathlib import Path

ML = Path("/opt/ml")
CODE = ML / "code"
FAILURE = ML / "output" / "failure"

REASON_LENGTH = 1024
"""Characters of the failure file that the service shows."""

UNSAID = (
    "the container ended without a word, as when memory runs out: lower train.batch_size, or take"
    " a larger instance_type"
)


def main() -> int:
    """Train, and hand over what came of it; the container's exit status."""
    # A first process without handlers loses these; so they wait until `program` has some.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    _reserve_failure()
    try:
        _unpack()
        sys.path.insert(0, str(CODE / "src"))
        from alzmri.sagemaker import container

        failure = container.train()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        failure = f"{error.strerror or error}{where}"
    if failure:
        return _fail(failure)
    FAILURE.unlink()
    return 0


def _unpack() -> None:
    shutil.rmtree(CODE, ignore_errors=True)
    CODE.mkdir(parents=True)
    with tarfile.open(Path(__file__).with_name("code.tar.gz")) as archive:
        archive.extractall(CODE, filter="data")
    (CODE / "data").mkdir()
    (CODE / "data/prepared").symlink_to(ML / "input/data/prepared")


def _reserve_failure() -> None:
    """Take the room now: a full disk has none. What is written is true should nobody live to."""
    FAILURE.parent.mkdir(parents=True, exist_ok=True)
    FAILURE.write_bytes(UNSAID.encode().ljust(REASON_LENGTH))


def _fail(why: str) -> int:
    print(f"failed: {why}", flush=True)
    with FAILURE.open("r+b") as file:
        file.write(why.encode()[:REASON_LENGTH])
        file.truncate()
    return 1


if __name__ == "__main__":
    sys.exit(main())
