"""The server as its clients see it: a real process on a real socket."""

import base64
import gzip
import io
import json
import re
import signal
import socket
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from PIL import Image

from alzmri.classes import CLASSES
from alzmri.data import images
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import NOTICE
from alzmri.inference.predictor import Predictor
from alzmri.serving.serve_command import serve

from ..processes import limit

JPEG = {"Content-Type": "image/jpeg"}
ROOT = Path(__file__).parents[2]


def _form(contents, field="images", name="slice.png"):
    return [(field, (name, content)) for content in contents]


def _values(probabilities):
    assert list(probabilities) == list(CLASSES)
    return np.array(list(probabilities.values()))


def test_every_route_gives_the_probabilities_of_the_command_line(server, workplace, files):
    contents = [path.read_bytes() for path in files]
    predictor = Predictor.load(workplace / "models")
    pixels = [images.decode_bytes(content).pixels for content in contents]
    expected = predictor.predict(np.stack([predictor.preprocess(image) for image in pixels]))
    many = server.post("/predict", files=_form(contents)).json()
    for index, content in enumerate(contents):
        one = server.post("/invocations", data=content, headers=JPEG).json()
        explained = server.post("/explain", files=_form([content], "image")).json()
        for answer in (one, explained, many["images"][index]):
            found = _values(answer["probabilities"])
            np.testing.assert_allclose(found, expected.probabilities[index], atol=1e-5)
            assert answer["predicted"] == CLASSES[found.argmax()]
            assert answer["ood_score"] == pytest.approx(expected.ood_score[index], rel=1e-3)
            assert answer["in_distribution"] == expected.in_distribution[index]
        assert one["notice"] == explained["notice"] == many["notice"] == NOTICE
        # And what is known of such slices.
        assert set(explained["nearest"]["classes"]) == {CLASSES[index]}
        assert explained["nearest"]["subjects"] > 1
        own = explained["calibration"][CLASSES[index]]
        assert own["low"] <= own["share"] <= own["high"]
        assert own["subjects"] == 8  # all there are in the test part
        for picture in (explained["slice"], explained["heat"]):
            assert picture.startswith("data:image/png;base64,")
    mean = expected.probabilities.mean(axis=0)
    np.testing.assert_allclose(_values(many["mean"]), mean, atol=1e-5)
    # The model has learnt something, or all this would be said of constants.
    assert [answer["predicted"] for answer in many["images"]] == list(CLASSES)


def test_the_mean_is_over_the_slices_in_distribution_only(server, files):
    good = [path.read_bytes() for path in files[:2]]
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    strange = io.BytesIO()
    Image.fromarray(noise).save(strange, "PNG")
    answer = server.post("/predict", files=_form([good[0], strange.getvalue(), good[1]])).json()
    assert [found["in_distribution"] for found in answer["images"]] == [True, False, True]
    assert answer["images"][1]["predicted"] is None
    inside = [_values(answer["images"][number]["probabilities"]) for number in (0, 2)]
    np.testing.assert_allclose(_values(answer["mean"]), np.mean(inside, axis=0), atol=1e-9)
    assert server.post("/predict", files=_form([strange.getvalue()])).json()["mean"] is None


def test_a_volume_is_taken_apart_into_the_slices_that_the_model_knows(server, head):
    answer = server.post("/volume", files={"volume": (head.name, head.read_bytes())})
    depths = [found["depth"] for found in answer.json()["slices"]]
    # The head ends 65 mm above the fluid's centre; the slices are around 2 mm above that.
    assert depths == sorted(depths, reverse=True)
    assert len(depths) == 6
    assert abs(np.mean(depths) - 63) <= 2
    content = base64.b64decode(answer.json()["slices"][0]["slice"].partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (32, 32)
    assert server.post("/invocations", data=content, headers=JPEG).ok
    refused = server.post("/volume", files={"volume": ("x.nii", b"no volume")})
    assert refused.status_code == 400
    assert "the volume cannot be used: it is neither NIfTI" in refused.json()["error"]


def test_no_answer_is_kept_nor_taken_for_another_kind_of_content(server, files):
    image = files[0].read_bytes()
    answers = {
        "page": server.get("/"),
        "script": server.get("/page/page.js"),
        "model": server.get("/model"),
        "answer": server.post("/invocations", data=image, headers=JPEG),
        "refusal": server.post("/invocations", data=b"", headers=JPEG),
        "nowhere": server.get("/nowhere"),
        "docs": server.get("/docs"),
    }
    for name, answer in answers.items():
        assert answer.headers["Cache-Control"] == "no-store", name
        assert answer.headers["X-Content-Type-Options"] == "nosniff", name
        assert answer.headers["Referrer-Policy"] == "no-referrer", name
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'", name
        assert policy["connect-src"] == "'self'", name
        inline = " 'unsafe-inline'" if name == "docs" else ""
        assert policy["script-src"] == f"'self'{inline}", name


def _png(width, height):
    """A valid head that promises more than the file holds: a decompression bomb's."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _animation():
    frames = [Image.new("L", (64, 64), shade) for shade in (10, 200)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


PART = b'Content-Disposition: form-data; name="images"; filename="a.png"\r\n'
FORMS = [
    ("no end", b"--x\r\n" + PART + b"\r\ncontent", 422),
    ("only an end", b"--x--\r\n", 422),
    ("nothing", b"", 422),
    ("another boundary", b"--y\r\n" + PART + b"\r\ncontent\r\n--y--\r\n", 400),
    ("no name", b"--x\r\nContent-Disposition: form-data\r\n\r\ncontent\r\n--x--\r\n", 400),
    ("no disposition", b"--x\r\n\r\ncontent\r\n--x--\r\n", 400),
    ("a long header", b"--x\r\nX: " + bytes([65]) * 2**17 + b"\r\n\r\n\r\n--x--\r\n", 400),
    ("a header of nulls", b"--x\r\n\0\0: \0\r\n\r\ncontent\r\n--x--\r\n", 400),
    ("an empty file", b"--x\r\n" + PART + b"\r\n\r\n--x--\r\n", 400),
    ("2000 files", (b"--x\r\n" + PART + b"\r\nz\r\n") * 2000 + b"--x--\r\n", 400),
    ("a path", b"--x\r\n" + PART.replace(b"a.png", b"../../a") + b"\r\nz\r\n--x--\r\n", 400),
]
"""Bodies of forms: name, content, the status it deserves."""
HOST = b"Host: localhost\r\nConnection: close\r\n"
POST = b"POST /invocations HTTP/1.1\r\nContent-Type: image/png\r\n" + HOST
RAW = [
    ("no host", b"GET /ping HTTP/1.1\r\nConnection: close\r\n", {400}),
    ("two hosts", b"GET /ping HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n" + HOST, {400}),
    ("another version", b"GET /ping HTTP/9.9\r\n" + HOST, {400, 505}),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", {400}),
    ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", {400}),
    ("blank path", b"GET  HTTP/1.1\r\n" + HOST, {400}),
    ("a tunnel", b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST, {400, 404, 405}),
    ("a header of nulls", b"GET /ping HTTP/1.1\r\nX: \0\0\r\n" + HOST, {400}),
    ("a header without a name", b"GET /ping HTTP/1.1\r\n: x\r\n" + HOST, {400}),
    ("no length", POST.replace(b"POST", b"POST", 1), {400}),
    ("a length below 0", POST + b"Content-Length: -1\r\n", {400}),
    ("a length in words", POST + b"Content-Length: many\r\n", {400}),
    ("a huge length", POST + b"Content-Length: 99999999999999999999\r\n", {400, 413}),
    ("two lengths", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n", {400}),
    ("length and chunks", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", {400}),
    ("a chunk of no size", POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", {400}),
    ("an endless chunk", POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", {400}),
    ("another coding", POST + b"Transfer-Encoding: gzip\r\n", {400, 501}),
    *(
        (f"path {path}", b"GET " + path.encode("latin-1") + b" HTTP/1.1\r\n" + HOST, {400, 404})
        for path in (
            *("/page/../../../etc/passwd", "/page/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
            *("//etc/passwd", "/page//etc/passwd", "/page/..%5c..%5cetc", "/page/%00", "/page/%ff"),
            *("/docs-static/../app.py", "/docs-static/%2e%2e/%2e%2e/app.py", "/page/" + "a" * 5000),
        )
    ),
]
"""Requests as they are: name, bytes, statuses that they may get."""


def _bad(files):
    """What clients send by mistake or by malice: name, the request, the status it deserves."""
    good = files[0].read_bytes()
    everything = {
        "empty": (b"", 400),
        "noise": (np.random.default_rng(0).bytes(2000), 400),
        "truncated": (good[: len(good) // 2], 400),
        "bomb": (_png(60_000, 60_000), 400),
        "tiny": (_png(4, 4), 400),
        "animated": (_animation(), 400),
        "program": (b"%!PS-Adobe-3.0\n(/etc/passwd) run\n", 400),
        "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///"/></svg>', 400),
    }
    for name, (content, status) in everything.items():
        yield name, {"path": "/invocations", "data": content, "headers": JPEG}, status
        yield name, {"path": "/predict", "files": _form([good, content])}, status
        yield name, {"path": "/explain", "files": _form([content], "image")}, status
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for name, content, status in FORMS:
        yield name, {"path": "/predict", "data": content, "headers": form}, status
    for kind in ("", "image", "multipart/form-data", "application/json", "text/plain; \xff"):
        headers = {"Content-Type": kind.encode("latin-1")}
        yield f"type {kind}", {"path": "/invocations", "data": good, "headers": headers}, 415
        yield f"type {kind}", {"path": "/predict", "data": good, "headers": headers}, (400, 422)
    yield "type", {"path": "/invocations", "data": good, "headers": {"Content-Type": "a/b"}}, 415
    yield "many", {"path": "/predict", "files": _form([good] * 65)}, 413
    yield "field", {"path": "/predict", "files": _form([good], "other")}, 422
    yield "text", {"path": "/predict", "data": {"images": "../../etc/passwd"}}, 422
    yield "form", {"path": "/predict", "data": b"no boundary at all", "headers": form}, 400
    yield "large", {"path": "/invocations", "data": bytes(33 << 20), "headers": JPEG}, 413
    yield "endless", {"path": "/predict", "data": iter([bytes(1 << 20)] * 40), "headers": form}, 413
    yield "nowhere", {"path": "/page/../../../etc/passwd", "data": good}, 404


def test_what_cannot_be_answered_is_refused_in_one_sentence(server, files):
    for name, request, status in _bad(files):
        path = request.pop("path")
        response = server.post(path, **request)
        assert response.status_code in np.atleast_1d(status), (name, path, response.text)
        content = response.json()
        assert set(content) == {"error", "notice"}, name
        assert "Traceback" not in content["error"], name
        assert "\n" not in content["error"], name
        assert response.headers["X-Notice"] == NOTICE, name
    for host in ("attacker.example", "localhost.attacker.example", "", "[::2]"):
        response = server.get("/model", headers={"Host": host})
        assert response.status_code == 400, host
        assert set(response.json()) == {"error", "notice"}, host
    assert server.get("/ping").json()["status"] == "ok"


def test_a_wrong_method_gets_the_right_one_in_allow(server):
    for path, method in {"/invocations": "POST", "/predict": "POST", "/model": "GET"}.items():
        for wrong in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - {method}:
            answer = requests.request(wrong, f"{server.url}{path}", timeout=limit(60))
            assert (answer.status_code, answer.headers["Allow"]) == (405, method), (path, wrong)
            assert answer.json()["notice"] == NOTICE
        assert (
            requests.request("NONSENSE", f"{server.url}{path}", timeout=limit(60)).status_code
            == 400
        )


def _raw(server, *parts):
    """The answer to bytes as they are: its status, its headers, its JSON."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=limit(60)) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        answer = b""
        with suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), json.loads(body)


def test_hostile_bytes_are_refused_at_once_in_json(server):
    """Or nothing is said: of an answer that is due, status, kind and content are as documented."""
    before = server.log.read_text().count("Traceback")
    for name, content, expected in RAW:
        begin = time.monotonic()
        status, head, said = _raw(server, content + b"\r\n")
        assert status in expected, (name, status, said)
        assert set(said) == {"error", "notice"}, name
        assert "content-type: application/json" in head, name
        assert time.monotonic() - begin < limit(5), name
    line = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n"
    many = [b"X-%d: %s\r\n" % (number, bytes([65]) * 1000) for number in range(1000)]
    one = [b"X: ", *[bytes([65]) * 4096] * 1000]
    for parts in ([line, *many], [line, *one], [b"GET /", *[bytes([65]) * 4096] * 1000]):
        status, _, said = _raw(server, *parts)
        assert (status, said["notice"]) == (431, NOTICE)
        assert "64 KiB" in said["error"]
    # Large content in small chunks is none of that.
    body = (bytes(4096) for _ in range(200))
    assert server.post("/invocations", data=body, headers=JPEG).status_code == 400
    assert server.get("/ping").ok
    assert server.log.read_text().count("Traceback") == before


def _progressive(scans):
    """A JPEG of 4096 pixels a side with so many scans, each of a few bytes."""
    blocks = (4096 // 8) ** 2
    table = struct.Struct(">2sH").pack
    scan = table(b"\xff\xda", 8) + bytes([1, 1, 0, 1, 63, 0]) + b"\x7f\xfe" * (blocks // 32767 + 1)
    return (
        b"\xff\xd8"
        + (table(b"\xff\xdb", 67) + b"\0" + bytes([1] * 64))
        + (table(b"\xff\xc2", 11) + struct.pack(">BHHB", 8, 4096, 4096, 1) + bytes([1, 0x11, 0]))
        + (table(b"\xff\xc4", 20) + b"\0" + bytes([1] + [0] * 15) + b"\0")
        + (table(b"\xff\xc4", 21) + b"\x10" + bytes([1, 1] + [0] * 14) + b"\xe0\0")
        + (table(b"\xff\xda", 8) + bytes([1, 1, 0, 0, 0, 0]) + bytes(blocks // 8))
        + scan * scans
        + b"\xff\xd9"
    )


def _segments():
    """A JPEG of nothing but comments."""
    return b"\xff\xd8" + b"\xff\xfe\0\2" * (8 << 18)


def _zeros(shape, affine):
    """A volume of zeros, which compress a thousandfold."""
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    return gzip.compress(image.to_bytes())


def test_beside_hostile_uploads_good_ones_are_answered_and_memory_stays(server, files):
    good = files[0].read_bytes()
    assert server.post("/invocations", data=good, headers=JPEG).ok
    idle = server.memory()
    shear = np.full((4, 4), 28.5) + np.eye(4)
    images = [_progressive(5000), _progressive(32), _segments(), _png(4096, 4096)]
    volumes = [
        _zeros((8, 8, 8), shear * [[1], [1], [1], [0]] + np.diag([0, 0, 0, 1])),
        _zeros((400, 400, 400), np.eye(4)),
        gzip.compress(bytes(64 << 20)),
    ]
    hostile = [
        *({"path": "/invocations", "data": content, "headers": JPEG} for content in images),
        *({"path": "/explain", "files": _form([content], "image")} for content in images),
        *({"path": "/volume", "files": {"volume": content}} for content in volumes),
    ]
    with ThreadPoolExecutor(16) as threads:
        answers = [threads.submit(server.post, **request) for request in hostile]
        while True:
            last = all(answer.done() for answer in answers)
            begin = time.monotonic()
            assert server.post("/invocations", data=good, headers=JPEG).status_code == 200
            assert server.get("/ping").status_code == 200
            assert time.monotonic() - begin < limit(5)
            if last:
                break
    assert {answer.result().status_code for answer in answers} <= {400, 503}
    assert server.memory() < idle + 100_000_000


def test_the_api_describes_itself_without_the_internet(server):
    schema = server.get("/openapi.json").json()
    paths = {"/predict", "/explain", "/volume", "/ping", "/invocations", "/model", "/metrics"}
    assert paths == set(schema["paths"])
    # schemathesis found that a form without a file is as the schema has it, and yet refused.
    schemas = schema["components"]["schemas"].items()
    (form,) = (found for name, found in schemas if name.startswith("Body_predict"))
    assert form["properties"]["images"]["minItems"] == 1
    page = server.get("/docs").text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    for address in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert server.get(address).ok, address


def _half_sent(server, content):
    """A request of which the last byte is missing."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=limit(30))
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:-1])
    return connection


def test_logs_and_metrics_have_route_and_status_but_no_names_or_content(server, files, eventually):
    def count(route, status):
        text = server.get("/metrics").text
        name = rf'^alzmri_request_seconds_count{{route="{route}",status="{status}"}} (\S+)$'
        return sum(float(value) for value in re.findall(name, text, re.MULTILINE))

    cases = ("/predict", 200), ("/invocations", 413), ("/invocations", 499), ("/invocations", 500)
    before = [count(*case) for case in cases]
    form = _form([files[0].read_bytes()], name="../../Jane Doe 1950-01-01.png")
    response = server.post("/predict?patient=Doe", files=form)
    server.get("/patients/Doe")
    # What is refused early has its route, and who hangs up is no fault of the server.
    server.post("/invocations", data=bytes(33 << 20), headers=JPEG)
    _half_sent(server, b"content").close()
    eventually(lambda: count("/invocations", 499) == before[2] + 1)
    assert [count(*case) for case in cases] == [
        before[0] + 1,
        before[1] + 1,
        before[2] + 1,
        before[3],
    ]
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (own,) = (line for line in lines if line["id"] == response.headers["X-Request-ID"])
    assert (own["method"], own["route"], own["status"]) == ("POST", "/predict", 200)
    assert own["ms"] > 0
    assert "Doe" not in text


def test_of_servers_that_start_at_once_with_an_empty_cache_one_exports_the_model(servers):
    exports = ["exporting the model" in server.log.read_text() for server in servers]
    assert sorted(exports) == [False, True]


def _status(connection):
    with connection, connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def test_above_capacity_clients_get_503_and_a_stop_loses_nothing(servers, files, eventually):
    _, server = servers
    content = files[0].read_bytes()

    def answer():
        return server.post("/invocations", data=content, headers=JPEG)

    held = [_half_sent(server, content) for _ in range(2)]
    eventually(lambda: answer().status_code == 503)
    assert answer().headers["Retry-After"] == "1"
    assert "busy" in answer().json()["error"]
    # Whoever asks whether it lives is answered all the same.
    assert server.get("/ping").ok
    held[0].sendall(content[-1:])
    assert _status(held[0]) == 200
    assert answer().status_code == 200

    server.process.send_signal(signal.SIGTERM)

    def refuses():
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=limit(30)).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(refuses)
    assert server.process.is_running()
    held[1].sendall(content[-1:])
    assert _status(held[1]) == 200
    assert server.process.wait(limit(30)) == 0


def test_a_mistake_is_one_message(tmp_path, server, workplace, monkeypatch):
    with pytest.raises(UserError, match="no trained model"):
        serve(port=0, model=tmp_path)
    with pytest.raises(UserError, match=f"port {server.port}: Address already in use: choose"):
        serve(port=server.port, model=workplace / "models")
    with pytest.raises(UserError, match="cannot listen"):
        serve("192.0.2.1", 0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(EnvironmentFault, match=r"uvicorn is not installed: .*\.\[serve\]"):
        serve()


def test_the_container_starts_what_sagemaker_asks_for_without_a_shell():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (entry,) = (line for line in lines if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT")) == ["alzmri"]
    assert any(line.startswith("USER ") for line in lines)
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    outputs = (ROOT / "dvc.yaml").read_text()
    for name in copied:
        assert name in outputs if name.startswith("models/") else (ROOT / name).exists(), name
