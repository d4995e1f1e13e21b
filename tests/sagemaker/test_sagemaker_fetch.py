"""What is taken from a fetched archive, and what is refused."""

import hashlib
import io
import json
import tarfile

import pytest

from alzmri.errors import UserError
from alzmri.sagemaker import fetch
from alzmri.sagemaker.container import OUTPUTS

FILES = {name.rpartition("/")[2]: name.encode() for name in OUTPUTS}
MANIFEST = {
    "outputs": {name: hashlib.sha256(name.encode()).hexdigest() for name in OUTPUTS},
    "code": {"src/train.py": "0" * 64},
}
GOOD = {**FILES, fetch.MANIFEST: json.dumps(MANIFEST).encode()}


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


def test_sagemaker_fetch_takes_what_the_container_wrote(tmp_path):
    outputs, code = fetch.unpack(_archive(tmp_path / "a", GOOD), tmp_path)
    assert {name: path.read_bytes().decode() for name, path in outputs.items()} == {
        name: name for name in OUTPUTS
    }
    assert code == MANIFEST["code"]


@pytest.mark.parametrize(
    "member",
    [
        _member("../escaped", size=1),
        _member("/escaped", size=1),
        _member("models/../../escaped", size=1),
        _member("link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("model.json", tarfile.LNKTYPE, "model.safetensors"),
        _member("model.json", size=1),
        _member("pipe", tarfile.FIFOTYPE),
        _member("surplus.py", size=1),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_sagemaker_fetch_refuses_members_that_no_job_makes(tmp_path, member):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match="which no job of ours makes"):
        fetch.unpack(_archive(tmp_path / "a", GOOD, member), folder)
    assert not (tmp_path / "escaped").exists()
    assert {path.name for path in folder.iterdir()} <= set(GOOD)


def test_sagemaker_fetch_refuses_what_would_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LIMIT", 50)
    with pytest.raises(UserError, match="more than any model has"):
        fetch.unpack(_archive(tmp_path / "a", GOOD), tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name in GOOD) <= 50


def test_sagemaker_fetch_refuses_what_is_damaged_or_incomplete(tmp_path):
    damaged = _archive(tmp_path / "a", {**GOOD, "model.safetensors": b"other bytes"})
    with pytest.raises(UserError, match=r"damaged: models/model\.safetensors"):
        fetch.unpack(damaged, tmp_path)
    for missing in GOOD:
        part = {name: content for name, content in GOOD.items() if name != missing}
        with pytest.raises(UserError, match="not whole, or not ours"):
            fetch.unpack(_archive(tmp_path / "a", part), tmp_path)
    whole = _archive(tmp_path / "b", GOOD).read_bytes()
    (tmp_path / "b").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not whole, or not ours"):
        fetch.unpack(tmp_path / "b", tmp_path)
