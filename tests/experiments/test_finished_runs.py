"""Runs are found by name; their scores and predictions are read from the right place."""

import math
import subprocess

import numpy as np
import pytest

from alzmri import params
from alzmri.errors import UserError
from alzmri.experiments.finished_runs import (
    METRICS,
    FinishedRun,
    SlicePredictions,
    check_metric,
    chosen,
)


@pytest.fixture
def commits(tmp_path, monkeypatch):
    """Three commits, the last checked out, as DVC leaves them: experiments are references."""
    monkeypatch.chdir(tmp_path)
    for variable in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{variable}_NAME", "test")
        monkeypatch.setenv(f"GIT_{variable}_EMAIL", "test@localhost")
    _git("init", "--quiet", "--initial-branch", "main")
    found = []
    for day in (1, 2, 3):
        _git("commit", "--quiet", "--allow-empty", "--message", str(day))
        found.append(_git("rev-parse", "HEAD"))
    for base, day, name in (
        *((0, 4, "old"), (1, 6, "sweep-a"), (0, 5, "sweep-a"), (0, 5, "sweep-b")),
        *((2, 7, "here-1"), (2, 7, "here-2"), (2, 7, "main-2")),
    ):
        start = found[base]
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2040-11-0{day}T12:00:00Z")
        commit = _git("commit-tree", f"{start}^{{tree}}", "-m", f"{base}{name}")
        _git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", commit)
    _git("update-ref", "refs/exps/exec/EXEC_HEAD", found[0])
    _git("update-ref", "refs/exps/stash", found[0])
    _git("tag", "v1", found[0])
    return found


def _git(*words):
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _subjects(runs):
    return [_git("log", "-1", "--format=%s", run.commit) for run in runs]


def test_experiments_of_this_commit_come_first_then_the_newest_of_any_other(commits):
    assert [run.name for run in chosen([])] == ["here-1", "here-2", "main-2"]
    assert [run.name for run in chosen(["here", "here-1"])] == ["here-1", "here-2"]
    assert [run.name for run in chosen(["sweep-b", "here-2"])] == ["sweep-b", "here-2"]
    assert sorted(_subjects(chosen(["sweep"]))) == ["0sweep-b", "1sweep-a"]
    assert _subjects(chosen(["sweep-a"])) == ["1sweep-a"]
    assert chosen(["main", "v1", commits[1][:9]]) == [
        FinishedRun("main", commits[2], is_experiment=False),
        FinishedRun("v1", commits[0], is_experiment=False),
        FinishedRun(commits[1][:9], commits[1], is_experiment=False),
    ]


def test_what_is_not_there_is_said(commits):
    for words, message in (
        (["swep"], "swep: no such experiment or revision: see `dvc exp list -A`"),
        (["here", "--all"], "--all: no such experiment"),
        (["EXEC_HEAD"], "EXEC_HEAD: no such"),
    ):
        with pytest.raises(UserError, match=message):
            chosen(words)
    _git("commit", "--quiet", "--allow-empty", "--message", "later")
    with pytest.raises(UserError, match="no experiment started from this commit: run one"):
        chosen([])
    with pytest.raises(UserError, match="macrof1: allowed are macro_f1, accuracy"):
        check_metric("macrof1")


def test_each_metric_is_read_from_its_own_place(make_run):
    run, keys = make_run("a", 0.5), [key for key in METRICS if key != "macro_auc"]
    for number, key in enumerate(keys):
        content = run.training if key.startswith("val_") else run.evaluation
        *section, last = key.split(".")
        (content[section[0]] if section else content)[last] = number
    run.evaluation["macro_auc"] = None
    assert [run.score(key) for key in keys] == list(range(len(keys)))
    assert math.isnan(run.score("macro_auc"))


def test_predictions_of_several_experiments_are_in_the_order_of_their_paths():
    header = "path,subject,actual,predicted,Non,Mild\n"
    found = SlicePredictions.of(
        header + "c.png,P2,Non,Non,0.700000,0.300000\nb.png,P1,Mild,Non,0.600000,0.400001\n",
        header + "a.png,P0,Non,Non,0.900000,0.100000\n",
    )
    assert found.classes == ("Non", "Mild")
    assert found.truth.tolist() == [0, 1, 0]
    assert found.predicted.tolist() == [0, 0, 0]
    assert found.subjects == ("P0", "P1", "P2")
    assert found.paths == ("a.png", "b.png", "c.png")
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-12)
    expected = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_a_run_is_of_the_parameters_code_and_data_that_it_ran_with(
    commits, committed, tmp_path, monkeypatch
):
    """Otherwise a study would report the results of other code or data as its own."""
    files = {"src/a.py": "", "data/mine.dvc": "", "dvc.yaml": "", "docs/page.md": ""}
    for name, content in (files | {"params.yaml": committed("params.yaml").read_text()}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    _git("add", "--all")
    _git("commit", "--quiet", "--message", "run")
    run, wanted = FinishedRun("x", _git("rev-parse", "HEAD")), params.load()
    assert run.is_of(wanted)
    for name in files:
        (tmp_path / name).write_text("changed")
        assert run.is_of(wanted) == (name == "docs/page.md"), name
        (tmp_path / name).write_text("")
    for section, key, value, same in (
        ("train", "lr", 0.5, False),
        ("split", "seed", 5, False),
        ("compute", "threads", 7, True),
        ("track", "group", "other", True),
    ):
        changed = getattr(wanted, section).model_copy(update={key: value})
        assert run.is_of(wanted.model_copy(update={section: changed})) == same, key
