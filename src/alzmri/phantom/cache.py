"""The template's maps, kept in the user's cache: preparing them takes seconds, reading does not.

A cached file is the raw maps followed by their SHA-256. Its name holds a digest of the code that
prepares them and of the template's files, so that no version ever reads another's maps. One file
takes 87 MB; the folder may be deleted at any time.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np

from alzmri.phantom import exact, mni
from alzmri.phantom.mni import SHAPE, Maps

_CHANNELS = (4, 5)
_FLOATS = [prod(SHAPE) * channels for channels in _CHANNELS]
_DIGEST_BYTES = hashlib.sha256().digest_size
_FILE_BYTES = 4 * sum(_FLOATS) + _DIGEST_BYTES


@contextmanager
def prepared_maps() -> Iterator[Path]:
    """Yield a file that :func:`load_maps` reads: the cached one, or a temporary one.

    Worker processes map the file into memory, so that all share one copy.
    """
    cached = _cache_file()
    if _intact(cached):
        yield cached
        return
    maps = mni.prepare_maps()
    try:
        _write(maps, cached)
    except OSError:
        # A cache that cannot be written costs time, never the result.
        with tempfile.TemporaryDirectory(prefix="alzmri-") as folder:
            temporary = Path(folder) / cached.name
            _write(maps, temporary)
            yield temporary
        return
    yield cached


def load_maps(path: Path) -> Maps:
    """Map a file of :func:`prepared_maps` into memory, read-only."""
    flat = np.memmap(path, dtype="<f4", mode="r", shape=(sum(_FLOATS),)).view(np.ndarray)
    parts = np.split(flat, [_FLOATS[0]])
    return Maps(*(part.reshape(*SHAPE, n) for part, n in zip(parts, _CHANNELS, strict=True)))


def _cache_file() -> Path:
    key = hashlib.sha256()
    for path in [Path(exact.__file__), Path(mni.__file__), *mni.template_files()]:
        key.update(hashlib.sha256(path.read_bytes()).digest())
    # The XDG specification has relative paths ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path("~/.cache").expanduser()
        except RuntimeError:  # a container's user without a home
            base = Path(tempfile.gettempdir())
    return base / "alzmri" / "phantom" / f"{key.hexdigest()[:16]}.maps"


def _intact(path: Path) -> bool:
    try:
        if path.stat().st_size != _FILE_BYTES:
            return False
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError:
        return False
    digest = hashlib.sha256(content[:-_DIGEST_BYTES].data)
    return digest.digest() == content[-_DIGEST_BYTES:].tobytes()


def _write(maps: Maps, path: Path) -> None:
    """Write atomically, under a name of its own: several processes may prepare at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as handle:
        try:
            for values in maps:
                content = np.ascontiguousarray(values, dtype="<f4").data
                digest.update(content)
                handle.write(content)
            handle.write(digest.digest())
            handle.close()
            Path(handle.name).replace(path)
        except BaseException:
            Path(handle.name).unlink(missing_ok=True)
            raise
