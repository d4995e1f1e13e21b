"""Nothing phones home: in a hospital's network that would rule the program out.

And everything computed again, in an empty home folder and whatever the caller's environment says of
instruction sets and threads, gives the same bytes.
"""

import json
import shutil
import sys

from ..forks import REAL
from ..test_cli import COMMANDS
from .lookups import COMMANDS as RUN
from .lookups import SERVICES

NAMESPACE = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def test_every_command_is_run_there():
    """Without exception: there is none that could not be."""
    run = [f"{line} " for line in (*RUN, *SERVICES)]
    names = [" ".join(words) for words, command in COMMANDS if not hasattr(command, "commands")]
    assert [name for name in names if not any(f"alzmri {name} " in line for line in run)] == []
    assert len(names) > 20


def test_no_command_looks_a_name_up_and_what_is_computed_again_is_the_same(clone, tmp_path):
    """The home folder is empty at first: what a package keeps there to send later is seen.

    No forks of the tests' server: processes of their own hash differently, which no order may
    depend on.
    """
    lock = (clone.root / "dvc.lock").read_bytes()
    for path in ("data/phantom", "data/prepared", "models", "plots", ".dvc/cache"):
        shutil.rmtree(clone.root / path)
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    home = tmp_path / "home"
    home.mkdir()
    done = clone.run(
        *("unshare", "--net", "--mount", "sh", "-c", NAMESPACE, "sh"),
        *(str(tmp_path / "resolv.conf"), sys.executable, "-m", "tests.e2e.lookups"),
        HOME=str(home),
        **REAL,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == {}
    assert found["asked"] == {"control": ["control.example"]}
    assert (clone.root / "dvc.lock").read_bytes() == lock
    assert list((clone.root / "wandb").glob("offline-run-*"))
    kept = {str(path.relative_to(home)) for path in home.glob(".*/*")}
    assert kept <= {f".cache/{name}" for name in ("alzmri", "matplotlib", "torch", "wandb")} | {
        ".config/matplotlib"
    }
