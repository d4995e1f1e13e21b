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


def test_sagemaker_fetch_names_every_parameter_that_differs():
    there = {"data": {"source": "phantom", "fit": "pad"}, "train": {"lr": 0.1}, "old": {"x": 1}}
    here = {"data": {"source": "kaggle", "fit": "pad"}, "train": {"lr": 0.2}, "track": {"x": 1}}
    assert fetch._other_parameters(there, here) == [
        "data.source = 'phantom', but 'kaggle' in params.yaml",
        "train.lr = 0.1, but 0.2 in params.yaml",
        "old.x = 1, but None in params.yaml",
    ]
    assert fetch._other_parameters(there, {**there, "track": {"x": 1}}) == []


def test_sagemaker_fetch_names_code_that_differs_is_missing_or_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deps = ["src/train.py", "src/alzmri/training", "data/prepared"]
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"train": {"deps": deps}}}))
    for name in ("src/train.py", "src/alzmri/training/same.py", "src/alzmri/training/new.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "src/alzmri/other.py").write_text("no dependency of the stage")

    def digest(text):
        return hashlib.sha256(text.encode()).hexdigest()

    there = {
        "src/train.py": digest("changed"),
        "src/alzmri/training/same.py": digest("src/alzmri/training/same.py"),
        "src/alzmri/training/gone.py": digest("gone"),
        "src/alzmri/elsewhere.py": digest("no dependency of the stage"),
    }
    assert [line.partition(":")[0] for line in fetch._other_code(there)] == [
        "src/alzmri/training/gone.py",
        "src/alzmri/training/new.py",
        "src/train.py",
    ]


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
