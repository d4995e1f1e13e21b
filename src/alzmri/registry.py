"""Under which version the model of this workspace is registered: GTO keeps that in git tags.

No output of the pipeline holds it: a version is given after the run, which stays the same bytes.
"""

from pathlib import Path

from alzmri import git
from alzmri.errors import UserError

NAME = "alzmri"
"""Of the artifact in ``dvc.yaml``."""


def version(folder: Path = Path("models")) -> str | None:
    """The latest version, such as ``alzmri@v0.1.0``, of which ``folder`` holds the model.

    That is the one whose ``dvc.lock`` is the one here. None where there is none, where ``folder``
    is not the workspace's own, or where this is no repository.
    """
    if folder.resolve() != Path("models").resolve():
        return None
    try:
        tags = git.lines("tag", "--list", "--sort=-version:refname", f"{NAME}@*")
        return next((tag for tag in tags if not git.run("diff", tag, "--", "dvc.lock")), None)
    except UserError:
        return None
