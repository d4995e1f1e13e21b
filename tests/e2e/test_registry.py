"""docs/registry.md, typed: a version of the model is registered here and fetched by name there."""

import re
import shutil
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/registry.md"


def test_what_the_page_says_is_true(clone, tmp_path, free_block):
    register, share, get = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    hub = str(tmp_path / "hub.git")
    clone.run("git", "init", "--quiet", "--bare", "--initial-branch", "main", hub)
    clone.run("git", "remote", "add", "origin", hub)
    clone.run("git", "push", "--quiet", "origin", "HEAD")
    clone.run("alzmri", "store", "up", "--port", str(free_block()))
    shown = clone.run("sh", "-ec", register).stdout
    assert re.search(r"alzmri\W+v0\.1\.0\W+v0\.1\.0", shown)
    clone.run("sh", "-ec", share)
    said = clone.run("alzmri", "results", "--baseline").stdout
    assert "registered as alzmri@v0.1.0" in said
    assert "was reproduced byte for byte" in said.splitlines()[-1]

    # Another clone, with nothing in its cache, takes the files from the remote.
    second = type(clone)(tmp_path / "second")
    clone.run("git", "clone", "--quiet", hub, str(second.root))
    shutil.copy(clone.root / ".dvc/config.local", second.root / ".dvc/config.local")
    scan = next((clone.root / "data/phantom").rglob("*.jpg"))
    typed = get.replace("REPO", ".").replace("scan.jpg", str(scan))
    assert "Demented" in second.run("sh", "-ec", typed).stdout
    got = second.root / "alzmri-v0.1.0"
    for name in ("model.safetensors", "model.json", "MODEL_CARD.md"):
        assert (got / name).read_bytes() == (clone.root / "models" / name).read_bytes()

    # A training starts from the version, and the next one from that experiment.
    words = ("-S", "train.init=alzmri@v0.1.0", "-S", "train.epochs=1", "train")
    said = clone.run("dvc", "exp", "run", "--temp", "--name", "further", *words).stdout
    assert "starts from alzmri@v0.1.0 (weights " in said
    params = clone.root / "params.yaml"
    params.write_text(params.read_text().replace("init: ''", "init: further"))
    assert "starts from further (weights " in clone.run("python", "src/train.py").stdout

    # By a stage, from the first clone's path, without the remote.
    clone.run("alzmri", "store", "down")
    words = ("alzmri", "--stage", "prod", "-o", str(tmp_path / "prod"))
    second.run("dvc", "artifacts", "get", str(clone.root), *words)
    assert (tmp_path / "prod/model.safetensors").read_bytes() == (
        got / "model.safetensors"
    ).read_bytes()
