"""What every test may use: the repository's own parameters and a small packed collection."""

import copy
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML
from scipy.stats import permutation_test

from alzmri.classes import CLASSES
from alzmri.data.prepared import Prepared, Row
from alzmri.errors import EnvironmentFault
from alzmri.models.forward import choose
from alzmri.params import Params, load
from alzmri.store.server import PARTS, require_free

from . import forks, processes

ROOT = Path(__file__).parent.parent
E2E = Path(__file__).parent / "e2e"
SERVICES = ("clinic/test_dicom_node.py", "store/test_interrupted.py", "store/test_server.py")
"""Files elsewhere that start whole services and take as long."""
LONGEST = (
    *("test_kills.py", "test_distribution.py", "test_sagemaker_jobs.py", "test_sweep.py"),
    *("test_honest.py", "test_pipeline.py", "test_network.py"),
)
for variable in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(variable, None)  # what tests say about colour is said of a plain environment
# A shell makes what it puts in the background deaf to Ctrl-C, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Blocks of ports that no two tests share, whichever worker of pytest runs them: a stopped server's
# sockets linger. They and their twins stay below the range from which the system draws ports for
# outgoing connections.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
BLOCKS = itertools.count(12_000 + WORKER * 1_000 + os.getpid() % 100 * len(PARTS), len(PARTS))


def pytest_configure(config: pytest.Config) -> None:
    """One server of forks for all workers; it imports nothing before somebody asks.

    When this process ends, however, the server ends all that tests have started and that runs.
    """
    if not hasattr(config, "workerinput"):
        server = forks.Forks()
        os.environ[forks.FOLDER] = str(server.folder)
        config.add_cleanup(server.close)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for tests wait a quarter of their time; four at most."""
    return min(len(os.sched_getaffinity(0)) + 1, 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts whole pipelines; the longest files come first, so that workers end alike."""
    for item in items:
        if E2E in item.path.parents or item.path in [E2E.parent / name for name in SERVICES]:
            item.add_marker("e2e")
    items.sort(key=lambda item: (E2E not in item.path.parents, _place(item.path.name)))


def _place(name: str) -> int:
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.fixture(scope="session")
def free_block() -> Callable[[], int]:
    """A function that names the first of five free ports, never the same twice."""

    def find() -> int:
        for port in BLOCKS:
            try:
                require_free(port)
            except EnvironmentFault:
                continue
            return port
        raise AssertionError("no free ports")

    return find


@pytest.fixture(scope="session")
def original() -> Callable[[str], str]:
    """``original("README.md")``: the text of a file in the commit that last changed tests/.

    What a user runs, imports or commits changes parameters, metrics and the store's address. Tests
    start from ours. ALZMRI_TEST_COMMIT names another commit: CI names HEAD.
    """
    words = ("git", "log", "-1", "--format=%H", "--", "tests")
    commit = os.environ.get("ALZMRI_TEST_COMMIT") or _output(*words).strip()

    @cache
    def read(path: str) -> str:
        return _output("git", "show", f"{commit}:./{path}")

    return read


def _output(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return done.stdout.decode(errors="surrogateescape")


@pytest.fixture(scope="session")
def committed(
    original: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``committed("params.yaml")``: a file with the values of the original one.

    Keys that are new in the workspace, or gone from it, are so here too.
    """

    @cache
    def make(name: str) -> Path:
        yaml = YAML()
        content = yaml.load((ROOT / name).read_text())
        _put_back(content, yaml.load(original(name)))
        path = tmp_path_factory.mktemp("committed") / name
        with path.open("w") as handle:
            yaml.dump(content, handle)
        return path

    return make


def _put_back(content: dict[str, Any], before: dict[str, Any]) -> None:
    for key, value in before.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _put_back(content[key], value)
        elif key in content:
            content[key] = value


@pytest.fixture(scope="session")
def _committed_params(committed: Callable[[str], Path]) -> dict[str, Any]:
    return load(committed("params.yaml")).model_dump()


@pytest.fixture
def make_params(_committed_params: dict[str, Any]) -> Callable[..., Params]:
    """``make_params(train={"lr": 0.1})``: the committed params.yaml with some values changed."""

    def make(**sections: dict[str, Any]) -> Params:
        content = copy.deepcopy(_committed_params)
        for name, values in sections.items():
            content[name].update(values)
        return Params.model_validate(content)

    return make


@pytest.fixture
def by_chance() -> Callable[..., float]:
    """The p-value of so many hits, for a model that knows nothing about new subjects' labels.

    A permutation test over subjects: where labels were drawn by lot, all orders of those of the
    test part are equally probable, so that at chance one model in a thousand is below 0.001,
    however few the subjects.
    """

    def p_value(truth: Sequence[Any], predicted: Sequence[Any], subjects: Sequence[str]) -> float:
        _, first, person = np.unique(subjects, return_index=True, return_inverse=True)
        answers, guess = np.unique(predicted, return_inverse=True)
        said = np.zeros((len(first), len(answers)))
        np.add.at(said, (person, guess), 1)

        def hits(labels: np.ndarray[Any, Any]) -> float:
            return float(said[labels[:, np.newaxis] == answers].sum())

        tested = (np.asarray(truth)[first],)
        found = permutation_test(
            tested, hits, permutation_type="pairings", alternative="greater", rng=0
        )
        return float(found.pvalue)

    return p_value


@pytest.fixture(params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU; where there is a GPU, that too in another test of the same name."""
    chosen = choose()  # for the deterministic kernels
    return chosen if chosen.type == request.param else torch.device(request.param)


def person(seed: int, slice_number: int = 0) -> NDArray[np.uint8]:
    """uint8 ``[40, 32]``: a head of its own per seed, almost the same in each of its slices."""
    half = np.random.default_rng(seed).integers(90, 240, (10, 4))
    coarse = np.hstack([half, half[:, ::-1]])  # an axis of symmetry, as in a head
    fine = np.random.default_rng((seed, slice_number)).integers(0, 4, (40, 32))
    return (np.kron(coarse, np.ones((4, 4), int)) + fine).astype(np.uint8)


@pytest.fixture
def draw() -> Callable[..., NDArray[np.uint8]]:
    return person


@pytest.fixture
def write() -> Callable[..., Path]:
    """``write(path, seed, slice_number)`` writes a JPEG and the folders above it."""

    def save(path: Path, seed: int = 0, slice_number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(person(seed, slice_number)).save(path, quality=95)
        return path

    return save


@pytest.fixture
def misnamed() -> Callable[[Path], None]:
    """Write an image whose name is not UTF-8 into a folder."""

    def save(folder: Path) -> None:
        with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123 - bytes
            Image.fromarray(person(99)).save(file, "JPEG")

    return save


@pytest.fixture
def prepared() -> Prepared:
    """96 slices of 32 pixels: 6 subjects a class, a bright disc that grows with the stage."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    parts = ("train", "train", "train", "train", "val", "test")
    images, rows = [], []
    for stage, label in enumerate(CLASSES):
        for person, part in enumerate(parts):
            for number in range(4):
                disc = 180 * (np.hypot(x, y) < 4 + 3 * stage) + 30
                images.append((disc + rng.integers(0, 40, disc.shape)).astype(np.uint8))
                subject = f"{stage}-{person}"
                path = f"{label}/{subject}_{number}.png"
                rows.append(Row(len(rows), path, label, subject, part, f"{len(rows):064x}"))
    return Prepared(np.stack(images), tuple(rows), CLASSES)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """A function that returns once a condition holds, and fails after 30 ``seconds``.

    They are of a quiet machine, as all time limits in tests are: `processes.limit`.
    """

    def wait(condition: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + processes.limit(seconds)
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.02)

    return wait
