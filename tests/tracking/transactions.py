"""Read a ``.wandb`` file, in which the client keeps a run on disk.

A header of seven bytes, then LevelDB's log format: blocks of 32 KiB with records that may span
several, https://github.com/google/leveldb/blob/main/doc/log_format.md. A record is the protocol
buffer ``wandb.proto.wandb_internal_pb2.Record``.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

HEADER, MAGIC = 7, b":W&B"
BLOCK = 32 * 1024
_RECORD = struct.Struct("<IHB")  # checksum, length, kind
_NOTHING, _WHOLE, _LAST = 0, 1, 4


def records(path: Path) -> Iterator["Record"]:
    """What is in ``path``, up to where a writer that was killed had come."""
    from wandb.proto.wandb_internal_pb2 import Record  # seconds, which each worker would pay

    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC:
        return
    position, content = HEADER, b""
    while position + _RECORD.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < _RECORD.size:
            position += left
            continue
        _, length, kind = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if kind == _NOTHING or position + length > len(data):
            return
        content += data[position : position + length]
        position += length
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(content)
            content = b""


def values(items: Any) -> dict[str, Any]:
    """History, summary or config items by key; the parts of a nested key joined by dots."""
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def steps(folder: Path, run: str) -> set[int]:
    """The steps that are in the offline files of ``run`` in ``folder``."""
    return {
        values(record.history.item)["_step"]
        for path in folder.glob(f"offline-run-*-{run}*/run-{run}.wandb")
        for record in records(path)
        if record.HasField("history")
    }
