"""A tiny trained model, the server as a user starts it, and a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
import torch
from ruamel.yaml import YAML

from alzmri.classes import CLASSES
from alzmri.data.prepared import Prepared, Row, relevant, write_manifest
from alzmri.files import write_json
from alzmri.models import saved
from alzmri.models.architectures import build
from alzmri.models.forward import MEAN, STD, normalise
from alzmri.ood.detector import fit as fit_detector
from alzmri.params import load

from .. import forks
from ..processes import limit

SIDE = 32
PARTS = ("train",) * 6 + ("val",) * 2 + ("test",) * 2


def slice_of(stage: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A disc that grows with the stage, on noise: uint8 ``[SIDE, SIDE]``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    disc = 150 * (np.hypot(x, y) < 4 + 3 * stage) + rng.integers(20, 40)
    return (disc + rng.integers(0, 40, disc.shape)).astype(np.uint8)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, committed: Callable[[str], Path]) -> Path:
    """A folder with prepared data and a LeNet trained on them, as the stages leave it."""
    root = tmp_path_factory.mktemp("serve")
    yaml = YAML()
    content = yaml.load(committed("params.yaml").read_text())
    content["data"]["image_size"] = SIDE
    content["model"]["name"] = "lenet"
    with (root / "params.yaml").open("w") as handle:
        yaml.dump(content, handle)
    params = load(root / "params.yaml")

    rows, images = [], []
    for stage, label in enumerate(CLASSES):
        for number in range(4 * len(PARTS)):
            index, person = len(rows), number // 4
            images.append(slice_of(stage, index))
            subject, path = f"{stage}-{person}", f"{label}/{index}.png"
            rows.append(Row(index, path, label, subject, PARTS[person], ""))
    folder = root / "data/prepared"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack(images))
    write_manifest(folder / "manifest.csv", rows)
    write_json(folder / "params.json", relevant(params))
    write_json(folder / "summary.json", {"classes": CLASSES})
    prepared = Prepared.open(params, folder)

    torch.manual_seed(0)
    shape = {"name": "lenet", "classes": len(CLASSES), "image_size": SIDE, "dropout": 0.5}
    model = build(**shape)
    train = prepared.indices("train")
    inputs = normalise(torch.from_numpy(np.ascontiguousarray(prepared.images[train])))
    truth = torch.from_numpy(prepared.labels[train])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), truth).backward()
        optimiser.step()
    card = saved.Card(
        architecture=shape,
        classes=list(CLASSES),
        preprocessing={"fit": "pad", "channels": 1, "mean": MEAN, "std": STD},
        parameters=params.model_dump(mode="json"),
        training_subjects=[],
        data_sha256=prepared.digest,
        temperature=1.5,
        versions={},
    )
    saved.save(root / "models", model.state_dict(), card)
    detector, _ = fit_detector(root / "models", prepared)
    detector.save(root / "models")
    (root / "models/MODEL_CARD.md").write_text(
        "---\nhead: yaml\n---\n\n"
        "# Model card: discs\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<script>alert(1)</script>\n"
    )
    return root


@dataclass(frozen=True)
class Server:
    """`alzmri serve`, running."""

    url: str
    process: psutil.Popen
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def memory(self) -> int:
        """Bytes that it has in memory."""
        listening = psutil.net_connections("tcp4")
        mine = (one for one in listening if one.status == "LISTEN" and one.laddr[1] == self.port)
        (pid,) = {one.pid for one in mine}
        return psutil.Process(pid).memory_info().rss

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=limit(60), **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(f"{self.url}{path}", timeout=limit(60), **options)


@contextmanager
def _started(root: Path, number: int, *options: str) -> Iterator[tuple[psutil.Popen, Path]]:
    environment = {
        key: value
        for key, value in forks.environment().items()
        if key == forks.FOLDER or not key.startswith("ALZMRI_")
    }
    log = root / f"serve-{number}.log"
    with log.open("w") as output:
        process = psutil.Popen(
            ["alzmri", "serve", "--port", "0", "--threads", "1", *options],
            cwd=root,
            env={**environment, "XDG_CACHE_HOME": str(root / "cache")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process, log
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()


def _running(process: psutil.Popen, log: Path) -> Server:
    while True:
        ended = process.poll() is not None
        if found := re.search(r"^serving .* at (http://\S+) ", log.read_text(), re.MULTILINE):
            return Server(found[1], process, log)
        assert not ended, log.read_text()
        with suppress(psutil.TimeoutExpired):
            process.wait(0.05)


@pytest.fixture(scope="session")
def servers(workplace: Path) -> Iterator[tuple[Server, Server]]:
    """Two that started at the same time, with one empty cache; the second takes two requests."""
    with (
        _started(workplace, 1) as first,
        _started(workplace, 2, "--requests", "2") as second,
    ):
        yield _running(*first), _running(*second)


@pytest.fixture(scope="session")
def server(servers: tuple[Server, Server]) -> Server:
    """The one with the defaults, for every test that leaves it as it is."""
    return servers[0]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A slice of each stage, of subjects that nobody was trained on, as PNG."""
    folder = tmp_path_factory.mktemp("slices")
    paths = []
    for stage in range(len(CLASSES)):
        paths.append(folder / f"stage {stage}.png")
        cv2.imwrite(str(paths[-1]), slice_of(stage, 1000 + stage))
    return paths


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume: an ellipsoid that ends 65 mm above the dark one at its centre."""
    x, y, z = np.mgrid[-90:90:2, -105:105:2, -70:80:2].astype(np.float32)
    whole = (x / 75) ** 2 + (y / 90) ** 2 + (z / 65) ** 2 < 1
    fluid = (x / 12) ** 2 + (y / 25) ** 2 + (z / 12) ** 2 < 1
    voxels = np.where(whole, np.where(fluid, 20, 100 + np.abs(x)), 0).astype(np.float32)
    path = tmp_path_factory.mktemp("volume") / "Jane Doe.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), path)
    return path


class Browser:
    """Headless Chromium with one page, spoken to over its debugging pipe."""

    def __init__(self, profile: Path) -> None:
        program = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        assert program, "no Chromium: run `make browser`, or install Debian's package chromium"
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser reads commands from file 3 and writes to file 4.
        self._process = subprocess.Popen(
            [
                "bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program,
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """One command of the DevTools protocol; what else arrives goes to ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._received:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, "the browser has ended"
                self._received += chunk
            line, _, self._received = self._received.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """Set the window's size and whether its subject likes it light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text,
            )  # fmt: skip

    def close(self) -> None:
        """End the browser and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for a module."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
