"""What is reported on is found by its name: experiments of any commit, branches, tags, commits."""

import subprocess

import pytest

from alzmri.errors import UserError
from alzmri.experiments.runs import FinishedRun, chosen, named


@pytest.fixture
def commits(tmp_path, monkeypatch):
    """Three commits, the last checked out, as DVC leaves them: experiments are references."""
    monkeypatch.chdir(tmp_path)
    for variable in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{variable}_NAME", "test")
        monkeypatch.setenv(f"GIT_{variable}_EMAIL", "test@localhost")
    _git("init", "--quiet", "--initial-branch", "main")
    found = [_commit(f"2026-11-0{day}") for day in (1, 2, 3)]
    for base, day, name in (
        *((0, 4, "old"), (1, 6, "sweep-a"), (0, 5, "sweep-a"), (0, 5, "sweep-b")),
        *((2, 7, "here-1"), (2, 7, "here-2"), (2, 7, "main-2")),
    ):
        start = found[base]
        commit = _commit(
            f"2026-11-0{day}", "commit-tree", f"{start}^{{tree}}", "-m", f"{base}{name}"
        )
        _git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", commit)
    _git("update-ref", "refs/exps/exec/EXEC_HEAD", found[0])
    _git("update-ref", "refs/exps/stash", found[0])
    _git("tag", "v1", found[0])
    return found


def _git(*words):
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def _commit(day, *words):
    command = words or ("commit", "--quiet", "--allow-empty", "--message", day)
    date = f"{day}T12:00:00Z"
    done = subprocess.run(
        ["env", f"GIT_COMMITTER_DATE={date}", "git", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() or _git("rev-parse", "HEAD")


def _subjects(runs):
    return [_git("log", "-1", "--format=%s", run.commit) for run in runs]


def test_experiments_of_this_commit_come_first_then_the_newest_of_any_other(commits):
    assert [run.name for run in chosen([])] == ["here-1", "here-2", "main-2"]
    assert [run.name for run in chosen(["here", "here-1"])] == ["here-1", "here-2"]
    assert [run.name for run in chosen(["sweep-b", "here-2"])] == ["sweep-b", "here-2"]
    assert sorted(_subjects(chosen(["sweep"]))) == ["0sweep-b", "1sweep-a"]
    assert _subjects(named("sweep-a")) == ["1sweep-a"]


def test_a_branch_a_tag_and_a_commit_have_names_too(commits):
    assert named("main") == [FinishedRun("main", commits[2], is_experiment=False)]
    assert chosen(["v1", commits[1][:9]]) == [
        FinishedRun("v1", commits[0], is_experiment=False),
        FinishedRun(commits[1][:9], commits[1], is_experiment=False),
    ]


def test_what_is_not_there_is_said(commits):
    for words, message in (
        (["swep"], "swep: no such experiment, branch, tag or commit; `dvc exp list -A`"),
        (["here", "--all"], "--all: no such experiment"),
        (["EXEC_HEAD"], "EXEC_HEAD: no such"),
    ):
        with pytest.raises(UserError, match=message):
            chosen(words)
    with pytest.raises(UserError, match="sweep: no such"):
        named("sweep")
    _git("checkout", "--quiet", commits[1][:9] + "^")
    _git("update-ref", "-d", f"refs/exps/{commits[0][:2]}/{commits[0][2:]}/old")
    assert [run.name for run in chosen([])] == ["sweep-a", "sweep-b"]
    _commit("2026-11-09")
    with pytest.raises(UserError, match="no experiment started from this commit: `dvc exp run"):
        chosen([])
