"""Forks a process for each order of a client's: `server.py FOLDER PREPARE ROOM`.

It listens at once and imports at the first order. It ends when its standard input does.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

AT_THE_END: list[Callable[[], None]] = []
atexit.register(lambda: [call() for call in AT_THE_END])  # registered first, it is called last

PRELOADED = (
    *("torch", "torch._dynamo", "safetensors.torch", "albumentations", "cv2", "numpy", "pydantic"),
    *("scipy.optimize", "scipy.ndimage", "scipy.sparse.csgraph", "scipy.stats"),
    *("sklearn.metrics", "sklearn.model_selection", "sklearn.linear_model"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.collections"),
    *("PIL.Image", "PIL.ImageOps", "PIL.JpegImagePlugin", "PIL.PngImagePlugin"),
    *("rich.progress", "rich.table", "ruamel.yaml", "fsspec", "filelock", "psutil", "configobj"),
    *("concurrent.futures.process", "multiprocessing.pool", "botocore.session", "typer.main"),
    *(
        "boto3",
        "torch.distributed.run",
        "torch.distributed.elastic.agent.server.local_elastic_agent",
    ),
    *("torch.nn.parallel", "torch.optim.swa_utils", "torch.utils.serialization"),
    *("dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments"),
    *("dvc.stage", "dvc.stage.run", "dvc.stage.cache", "dvc.dvcfile", "dvc.fs.dvc", "dvc.ui.table"),
    *("dvc.repo.experiments.executor.local", "dvc.repo.experiments.queue.celery", "dvc.render"),
    *("dvc.repo.experiments.queue.workspace", "dvc.repo.experiments.queue.tempdir"),
    *("dvc_data.index", "dvc_data.index.checkout", "dvc_data.index.save", "dvc_data.hashfile.db"),
    *("dvc.repo.index", "dvc.repo.open_repo", "dvc.repo.plots", "dvc.repo.stage", "dvc.cachemgr"),
    *("dvc.data_cloud", "dvc.utils.strictyaml", "dvc_render", "dvc_data.hashfile.db.local"),
    *("dulwich.worktree", "dulwich.ignore", "dulwich.trailers", "platformdirs"),
    *("scmrepo.git", "pygit2", "dulwich.repo", "pygtrie", "sqltrie", "flatten_dict"),
    *("dulwich.porcelain", "networkx", "hydra.core.override_parser.overrides_parser"),
    *("dvc.repo.graph", "dvc.utils.hydra", "markdown_it", "jinja2"),
    *("pydicom", "pynetdicom", "highdicom", "nibabel", "gdcm", "captum.attr"),
    *("onnx", "onnxruntime", "onnxscript", "torch.onnx", "pebble", "threadpoolctl"),
    *("fastapi", "fastapi_offline", "uvicorn", "uvloop", "httptools", "prometheus_client"),
)
"""Nothing of this project's: code is of the clone that a process runs in."""

READ_AT_IMPORT = (
    *("OMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "KMP_", "GOMP_", "LD_", "TORCH"),
    *("PYTORCH_", "CUDA_", "NVIDIA_", "PYTHON", "MPL", "FSSPEC_"),
    *("HOME", "XDG_", "LANG", "LC_"),
)
"""What begins so in the environment shapes what is imported: others get a process of their own."""

READ_LATER = ("PYTHONUNBUFFERED", "TORCHELASTIC_", "TORCH_NCCL_", "XDG_CACHE_HOME")
"""What begins so does not: torchrun sets some of it."""

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def describe(folder: Path) -> None:
    """Write what clients compare themselves with."""
    environment = {k: v for k, v in os.environ.items() if k.startswith(READ_AT_IMPORT)}
    environment = {k: v for k, v in environment.items() if not k.startswith(READ_LATER)}
    names = ("mnt", "net", "pid", "user", "uts")
    said = {
        "python": sys.executable,
        "prefixes": READ_AT_IMPORT,
        "later": READ_LATER,
        "environment": environment,
        "namespaces": {name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in names},
    }
    (folder / "draft").write_text(json.dumps(said))
    (folder / "draft").rename(folder / "server.json")


def preload(prepare: str) -> None:
    # As alzmri sets them: at import, some packages would speak with their makers.
    os.environ.update(NO_ALBUMENTATIONS_UPDATE="1", ORT_DISABLE_TELEMETRY="1")
    # And Arrow, which scikit-learn brings along, starts a thread that a fork would be without.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    if prepare:
        exec(prepare, {})  # noqa: S102
    else:
        for name in PRELOADED:
            with suppress(ModuleNotFoundError):  # another release has it elsewhere: slower only
                importlib.import_module(name)
        assert not any(name.partition(".")[0] == "alzmri" for name in sys.modules)
    # A fork has one thread only: locks that others hold would never be given back.
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "an import started threads"
    gc.collect()
    gc.freeze()


class Server:
    """What runs, and who asked for it."""

    def __init__(self, folder: Path, prepare: str) -> None:
        self.folder, self.prepare = folder, prepare
        self.ready = False
        self.selector = selectors.DefaultSelector()
        self.jobs: dict[int, socket.socket] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)

    def serve(self) -> dict | None:
        """Until the end: None; in each fork: the order."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    for pid in self.jobs:
                        kill_group(pid, signal.SIGKILL)
                    end_all(self.folder)
                    return None
                if key.fileobj is self.listener:
                    if order := self.accept():
                        return order
                elif isinstance(key.fileobj, int):
                    self.reap(key.fileobj, key.data)
                else:
                    self.relay(key.fileobj, key.data)

    def accept(self) -> dict | None:
        connection, _ = self.listener.accept()
        said, streams, *_ = socket.recv_fds(connection, 1 << 16, 64)
        while said and not said.endswith(b"\n"):
            more = connection.recv(1 << 20)
            said = said + more if more else b""
        if not said:
            connection.close()
            return None
        if not self.ready:
            preload(self.prepare)
            self.ready = True
        server = os.getpid()
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            self.jobs[pid] = connection
            self.selector.register(connection, selectors.EVENT_READ, pid)
            self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            self.reply(connection, pid=pid)
            return None
        self.forget()
        told = {"streams": streams, "server": server, "connection": connection}
        return {**json.loads(said), **told}

    def forget(self) -> None:
        """In a fork, let go of what is the server's."""
        for key in list(self.selector.get_map().values()):
            if key.fileobj != 0:
                os.close(key.fd)
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.detach()
        self.selector.close()

    @staticmethod
    def reply(connection: socket.socket, **values: object) -> None:
        with suppress(OSError):
            connection.sendall(json.dumps(values).encode() + b"\n")

    def reap(self, descriptor: int, pid: int) -> None:
        _, status, usage = os.wait4(pid, 0)
        self.selector.unregister(descriptor)
        os.close(descriptor)
        connection = self.jobs.pop(pid)
        seconds = usage.ru_utime + usage.ru_stime
        self.reply(connection, status=os.waitstatus_to_exitcode(status), seconds=seconds)
        with suppress(KeyError):
            self.selector.unregister(connection)
        connection.close()

    def relay(self, connection: socket.socket, pid: int) -> None:
        if connection not in self.jobs.values():
            return  # it ended in this very round
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self.selector.unregister(connection)
            kill_group(pid, signal.SIGKILL)
        for number in numbers:
            # A terminal's Ctrl-C is for the whole group, all else for the one that it was sent to.
            if number == signal.SIGINT:
                kill_group(pid, number)
            else:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def end_all(folder: Path) -> None:
    """However the tests ended, nothing is left of what they started: it has ``folder`` in its
    environment. Nor is the folder.
    """
    mark = f"ALZMRI_TEST_FORKS={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def kill_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def entitle(words: list[str]) -> None:
    """Show ``words`` as the command line of this process."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(stat[45]), int(stat[46])
    title = b"\0".join(word.encode(errors="surrogateescape") for word in words)[: end - start - 1]
    ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


def follow(connection: socket.socket) -> None:
    """Tell the client whenever this process changes its working directory: DVC's experiments do,
    and who started one looks where it is.
    """
    own, chdir = os.getpid(), os.chdir

    def changed(path: str) -> None:
        chdir(path)
        if os.getpid() == own:
            Server.reply(connection, folder=str(Path.cwd()))

    os.chdir = changed


def become(order: dict) -> str:
    """Make this process the one that was asked for; the script that it runs."""
    os.setsid()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["server"]:
        os._exit(1)  # the server died before this process could be told of it
    # First out of the way: they may have each other's numbers, or that of the connection.
    streams = [fcntl.fcntl(stream, fcntl.F_DUPFD, 200) for stream in order["streams"]]
    own = order["connection"].detach()
    connection = socket.socket(fileno=fcntl.fcntl(own, fcntl.F_DUPFD_CLOEXEC, 200))
    os.close(own)
    for number, above in zip(order["descriptors"], streams, strict=True):
        os.dup2(above, number)
    for stream in {*order["streams"], *streams} - {*order["descriptors"]}:
        os.close(stream)
    os.chdir(order["folder"])
    follow(connection)
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number in order.get("ignored", ()):
        signal.signal(number, signal.SIG_IGN)
    if order["unbuffered"]:
        for name, number in (("stdout", 1), ("stderr", 2)):
            raw = open(number, "wb", 0, closefd=False)  # noqa: SIM115
            encoding, errors = getattr(sys, name).encoding, getattr(sys, name).errors
            stream = io.TextIOWrapper(raw, encoding, errors, write_through=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    else:
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    entitle([order["executable"], *order["words"]])
    script, *_ = sys.argv = order["words"]
    sys.executable = order["executable"]
    sys.path.insert(0, "" if script == "-c" else str(Path(script).resolve().parent))
    importlib.invalidate_caches()
    if multiprocessing := sys.modules.get("multiprocessing"):
        multiprocessing.process.ORIGINAL_DIR = order["folder"]  # taken at import
        multiprocessing.set_executable(order["executable"])
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    return script


def main() -> dict | None:
    folder, prepare = Path(sys.argv[1]), sys.argv[2]
    del sys.path[0]  # the folder of this file
    # What asks for nobody's attention: the tests' own Ctrl-C closes the pipe.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = Server(folder, prepare)
    describe(folder)
    print("ready", flush=True)
    return server.serve()


def run(script: str) -> None:
    """As `python SCRIPT` does; the end is without taking all that was imported down in order,
    which would take half a second.
    """
    status = 1

    @AT_THE_END.append
    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)

    try:
        if script == "-c":
            exec(sys.argv.pop(1), {"__name__": "__main__"})  # noqa: S102
        else:
            runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        code = end.code
        status = code & 0xFF if isinstance(code, int) else int(code is not None)
        raise
    except KeyboardInterrupt:
        status = -signal.SIGINT
        raise


if order := main():
    run(become(order))
