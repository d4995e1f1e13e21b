"""Nothing phones home: in a hospital's network that would rule the program out."""

import json
import sys
from pathlib import Path

from ..forks import REAL

LOOKUPS = Path(__file__).with_name("lookups.py")
NAMESPACE = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def test_no_stage_and_no_command_looks_a_name_up_and_nothing_is_kept_to_be_sent(clone, tmp_path):
    """The home folder is empty at first: what a package keeps there to send later is seen."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    home = tmp_path / "home"
    home.mkdir()
    done = clone.run(
        *("unshare", "--net", "--mount", "sh", "-c", NAMESPACE, "sh"),
        *(str(tmp_path / "resolv.conf"), sys.executable, str(LOOKUPS), str(clone.root)),
        HOME=str(home),
        **REAL,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == []
    assert found["asked"] == ["control.example"]
    kept = {str(path.relative_to(home)) for path in home.glob(".*/*")}
    assert kept <= {".cache/alzmri", ".cache/matplotlib", ".cache/torch", ".config/matplotlib"}
