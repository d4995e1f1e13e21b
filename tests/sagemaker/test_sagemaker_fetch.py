"""What is taken from a fetched archive, and what is refused."""

import io
import tarfile

import pytest

from alzmri.errors import UserError
from alzmri.sagemaker import fetch
from alzmri.sagemaker.container import OUTPUTS

FILES = {name.rpartition("/")[2]: name.encode() for name in OUTPUTS}


def _archive(path, files, *others):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in others:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def _member(name, kind=tarfile.REGTYPE, target="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


def test_sagemaker_fetch_takes_what_the_container_wrote_and_nothing_else(tmp_path):
    others = [
        _member("../escaped", size=1),
        _member("/escaped", size=1),
        _member("models/../../escaped", size=1),
        _member("link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("model.json", tarfile.SYMTYPE, "/etc/passwd"),
        _member("model.json", tarfile.LNKTYPE, "model.safetensors"),
        _member("pipe", tarfile.FIFOTYPE),
        _member("surplus.py", size=1),
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    outputs = fetch.unpack(_archive(tmp_path / "a", FILES, *others), folder)
    assert {name: path.read_bytes().decode() for name, path in outputs.items()} == {
        name: name for name in OUTPUTS
    }
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "folder"}


def test_sagemaker_fetch_refuses_what_is_damaged_or_incomplete(tmp_path):
    for missing in FILES:
        part = {name: content for name, content in FILES.items() if name != missing}
        folder = tmp_path / f"without-{missing}"
        folder.mkdir()
        with pytest.raises(UserError, match=f"has no .*{missing}: no job of ours"):
            fetch.unpack(_archive(tmp_path / "a", part), folder)
    whole = _archive(tmp_path / "b", FILES).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-8] + b"\0" * 8, b"no archive"):
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            fetch.unpack(tmp_path / "b", tmp_path)
