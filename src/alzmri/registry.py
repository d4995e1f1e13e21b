"""The registered version of the model in this workspace, which GTO keeps in git tags.

No output of the pipeline contains it, because a user registers a version after the run.
"""

from pathlib import Path

from alzmri import git
from alzmri.errors import UserError

NAME = "alzmri"  # the artifact's name in ``dvc.yaml``


def version(folder: Path = Path("models")) -> str | None:
    """The latest version of the model in ``folder``, such as ``alzmri@v0.1.0``.

    A version matches if its ``dvc.lock`` is the same as here. None if no version matches, if
    ``folder`` is not the workspace's own, or outside a repository.
    """
    if folder.resolve() != Path("models").resolve():
        return None
    try:
        tags = git.lines("tag", "--list", "--sort=-version:refname", f"{NAME}@*")
        return next((tag for tag in tags if not git.run("diff", tag, "--", "dvc.lock")), None)
    except UserError:
        return None
