"""`alzmri store use`: another address, and the way back."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alzmri.store import remotes


def configuration(repo) -> list[bytes]:
    return [(repo.root / ".dvc" / name).read_bytes() for name in ("config", "config.local")]


@pytest.fixture
def elsewhere(shared_store):
    """Options and environment of a running S3 with the bucket `alzmri`."""
    remote = remotes.default(shared_store.root)
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), remote.keys, strict=True))
    return ["--endpoint-url", remote.endpoint], keys


def test_push_goes_there_and_back_again(shared_store, elsewhere, tmp_path):
    options, keys = elsewhere
    repo = shared_store.clone(tmp_path / "mine")
    repo.track("data", 1000)
    used = repo.store("use", "s3://alzmri/team/data", *options, **keys)
    assert used.returncode == 0, used.stderr
    pushed = repo.run("dvc", "push", **keys)
    assert pushed.returncode == 0, pushed.stderr
    assert "1 file" not in repo.run("dvc", "status", "--cloud", **keys).stdout
    assert "answers" in repo.store("status", **keys).stdout
    # Nothing of the local store's keys and endpoint reaches it.
    assert repo.run("dvc", "push").returncode != 0
    assert repo.store("up").returncode == 2
    assert repo.store("use", "local").returncode == 0
    missing = repo.run("dvc", "status", "--cloud")
    assert "new:" in missing.stdout
    assert repo.run("dvc", "push").returncode == 0


def test_address_is_for_all_and_profile_for_this_machine(new_repo):
    repo = new_repo("repo")
    words = ("--profile", "research", "--region", "eu-central-1", "--no-check")
    assert repo.store("use", "s3://team-bucket/alzmri/", *words).returncode == 0
    shared, private = (text.decode() for text in configuration(repo))
    assert "url = s3://team-bucket/alzmri\n" in shared
    assert "region = eu-central-1" in shared
    assert "research" not in shared
    assert "profile = research" in private
    assert repo.run("dvc", "remote", "default").stdout.strip() == remotes.TEAM
    # Once more without them: neither the old profile nor the old region stays.
    assert repo.store("use", "s3://team-bucket/alzmri", "--no-check").returncode == 0
    assert "research" not in configuration(repo)[1].decode()
    assert "eu-central-1" not in configuration(repo)[0].decode()
    # An address that is not valid may contain a key, which nothing repeats.
    repo.run("dvc", "remote", "modify", "team", "endpointurl", "https://KEY:SECRET@host")
    refused = repo.store("status")
    assert refused.returncode == 2
    assert "the endpointurl of DVC's remote 'team'" in refused.stderr
    assert "SECRET" not in refused.stdout + refused.stderr


def test_mistakes_change_nothing(new_repo):
    repo = new_repo("repo")
    before = configuration(repo)
    for words, said in (
        (["s3://Bucket/x"], "s3://bucket/prefix"),
        (["s3://KEY:SECRET@bucket/x"], "s3://bucket/prefix"),
        (["s3://bucket/x", "--endpoint-url", "http://host:99999"], "write https://host or"),
        (["local", "--profile", "x"], "takes no profile"),
    ):
        refused = repo.store("use", *words)
        assert refused.returncode == 2
        assert said in refused.stderr
        assert "SECRET" not in refused.stderr
        assert configuration(repo) == before


def test_damaged_configuration_is_left_and_its_keys_are_not_shown(new_repo):
    repo = new_repo("repo")
    path = repo.root / ".dvc" / "config.local"
    for content in (b"\xff\xfe\x00", b"[core]\nsecret_access_key SECRET\n"):
        path.write_bytes(content)
        refused = repo.store("use", "local")
        assert refused.returncode == 2
        assert f"{path.parent}: config or config.local is damaged: correct it" in refused.stderr
        assert "SECRET" not in refused.stderr
        assert path.read_bytes() == content


def test_bucket_that_does_not_answer_changes_nothing(new_repo, elsewhere):
    options, keys = elsewhere
    repo = new_repo("mine")
    before = configuration(repo)
    nowhere = ["--endpoint-url", f"http://127.0.0.1:{repo.port}"]
    no_credentials = {"AWS_SHARED_CREDENTIALS_FILE": str(repo.root / "absent")}
    no_metadata = {"AWS_EC2_METADATA_DISABLED": "true", **no_credentials}
    wrong = keys | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    for address, words, environment, said in (
        ("s3://missing/x", options, keys, "the bucket does not exist"),
        ("s3://alzmri/x", options, wrong, "the key is wrong"),
        ("s3://alzmri/x", options, no_metadata, "no AWS credentials"),
        ("s3://alzmri/x", [*options, "--profile", "absent"], {}, "aws configure"),
        ("s3://alzmri/x", nowhere, keys, "no answer (Could not connect"),
    ):
        start = time.monotonic()
        refused = repo.store("use", address, *words, **environment)
        assert refused.returncode == 1, said
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert time.monotonic() - start < 10
        assert configuration(repo) == before


class Public(BaseHTTPRequestHandler):
    """A bucket that lists itself to everybody, and to a key that it does not know too."""

    signed: list[bool]

    def do_GET(self) -> None:
        self.signed.append("Authorization" in self.headers)
        body = b"<ListBucketResult><Name>open</Name><KeyCount>0</KeyCount></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_others_read_a_public_bucket_without_keys(new_repo):
    handler = type("Handler", (Public,), {"signed": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        repo = new_repo("mine")
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        words = ("use", "s3://open/data", "--endpoint-url", endpoint, "--public")
        used = repo.store(*words, **keys)
        assert used.returncode == 0, used.stderr
        assert handler.signed == [True, False]  # as this machine pushes, as others pull
        assert repo.store("status", **keys).returncode == 0
        shared, private = (text.decode() for text in configuration(repo))
        assert "allow_anonymous_login = True" in shared
        assert "allow_anonymous_login = False" in private
        (repo.root / ".dvc/config.local").unlink()  # another clone
        no_keys = {"AWS_EC2_METADATA_DISABLED": "true"}
        assert repo.store("status", **no_keys).returncode == 0
        assert handler.signed == [True, False, True, False]
        server.shutdown()
