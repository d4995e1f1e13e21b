"""The command line: every help text, and a repository that is found from any of its folders."""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from alzmri import __version__, repository
from alzmri.cli import IN_PLACE, app

Command = tuple[list[str], Any]


def _commands(words: list[str], command: Any) -> Iterator[Command]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands([*words, name], inner)


COMMANDS = list(_commands([], get_command(app)))


def _plain(text: str) -> str:
    """Without white space, so that it matters nowhere how lines are broken."""
    return "".join(text.split())


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(c[0]) for c in COMMANDS])
def test_help_has_every_word_and_every_default(words, command):
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    said = _plain(shown.output)
    if words and command.callback.__doc__ and not hasattr(command, "commands"):
        for paragraph in inspect.getdoc(command.callback).split("\n\n"):
            assert _plain(paragraph) in said
    for parameter in command.params:
        assert _plain(parameter.help or "") in said, parameter.name
        default = parameter.default
        if isinstance(parameter.show_default, str):
            assert _plain(f"default: ({parameter.show_default})") in said
        elif default not in (None, False, True, ()) and parameter.show_default:
            value = default.value if isinstance(default, Enum) else default
            assert f"default:{value}" in said, parameter.name


def test_help_that_is_in_brackets():
    export = CliRunner().invoke(app, ["export", "--help"]).output
    assert "'export.formats=[onnx]'" in " ".join(export.split())
    assert "[default: 8333]" in CliRunner().invoke(app, ["store", "up", "--help"]).output


def test_the_whole_first_sentence_of_each_command_is_listed_in_a_narrow_terminal():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "60"}).output
    listed = _plain(shown[shown.index("Commands:") :])
    (compare,) = [of for words, of in COMMANDS if words == ["compare"]]
    assert _plain(compare.callback.__doc__.split("\n")[0].rstrip(".")) in listed
    assert "..." not in listed


def test_version_completion_and_the_module_are_there():
    """As a process: what the shell and `python -m` call."""
    version = [sys.executable, "-m", "alzmri", "--version"]
    done = subprocess.run(version, capture_output=True, text=True, check=True)
    assert done.stdout == f"alzmri {__version__}\n"
    program = shutil.which("alzmri", path=Path(sys.executable).parent)
    asked = {"_ALZMRI_COMPLETE": "complete_bash", "COMP_WORDS": "alzmri swe", "COMP_CWORD": "1"}
    completed = subprocess.run(
        [program], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert completed.stdout.split() == ["sweep"]


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: ``a/b`` in a repository."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def probe() -> Callable[..., list[str]]:
    """``probe(*words)``: where a command ran, and the path that it was given."""
    small, said = typer.Typer(), []

    @small.callback()
    def options(context: typer.Context) -> None:
        if context.invoked_subcommand != "stay":
            repository.enter(context)

    @small.command("go")
    @small.command("stay")
    def show(
        path: Path = typer.Option(Path("models"), callback=repository.located),  # noqa: B008
    ) -> None:
        said[:] = [str(Path.cwd()), str(path)]

    def invoke(*words: str) -> list[str]:
        result = CliRunner().invoke(small, words)
        assert result.exit_code == 0, result.output
        return said

    return invoke


def test_a_command_runs_at_the_root_and_takes_paths_from_where_they_are_typed(deep, probe):
    root = deep.parents[1]
    assert probe("go") == [str(root), "models"]
    os.chdir(deep)
    assert probe("go", "--path", "../x.zip") == [str(root), "a/x.zip"]
    os.chdir(deep)
    assert probe("go", "--path", "/x.zip") == [str(root), "/x.zip"]


def test_a_command_that_stays_finds_what_is_in_the_root_by_default(deep, probe):
    assert probe("stay") == [str(deep), "../../models"]
    assert probe("stay", "--path", "models") == [str(deep), "models"]


def test_outside_a_repository_everything_is_where_the_user_is(tmp_path, monkeypatch, probe):
    monkeypatch.chdir(tmp_path)
    assert probe("go", "--path", "x") == [str(tmp_path), "x"]
    assert probe("stay") == [str(tmp_path), "models"]


def test_every_path_option_of_ours_is_located():
    """A new one without it would be looked for in the root, wherever the user typed it."""
    located = []
    for words, command in (of for of in COMMANDS if not hasattr(of[1], "commands")):
        paths = [
            name
            for name, kind in get_type_hints(inspect.unwrap(command.callback)).items()
            if kind in (Path, Path | None)
        ]
        for parameter in command.params:
            if parameter.name in paths and not (words[0] in IN_PLACE and parameter.required):
                located.append(parameter.name)
                assert parameter.callback is not None, (words, parameter.name)
    assert {"source", "model", "out"} <= set(located)


def test_git_ignores_what_commands_write_and_leaves_bytes_alone():
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout

    written = ["dvc_plots/index.html", "reports/a/README.md", "plots/x.png", "models/x.onnx"]
    written += ["wandb/run", ".store/log", ".checkpoints/x", ".dvc/plots.html"]
    assert git("check-ignore", *written).split() == written
    assert ": lf\n" in git("check-attr", "eol", "src/train.py")
    assert ": unset\n" in git("check-attr", "text", "docs/confusion.png")
