"""What ``dvc.lock`` of a commit says: what its stages ran on, and what they wrote."""

from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

BESIDE = ("ood", "export@")
"""How the stages are called that no score depends on."""


class Lock:
    """The stages of one dvc.lock, by name; ``text`` is what the file holds."""

    def __init__(self, text: str) -> None:
        self.stages: Mapping[str, Any] = YAML(typ="safe").load(text).get("stages") or {}

    @property
    def scored(self) -> list[str]:
        """The stages that scores depend on."""
        return [name for name in self.stages if not name.startswith(BESIDE)]

    @property
    def outputs(self) -> dict[str, str]:
        """MD5 of every output file, by path."""
        return {
            out["path"]: out["md5"]
            for stage in self.stages.values()
            for out in stage.get("outs", ())
        }

    def inputs(self, stage: str) -> dict[str, str]:
        """MD5 of the code and data that ``stage`` ran on, by path; its command under ``cmd``.

        Not of what other stages wrote: that differs wherever they do.
        """
        known = self.stages.get(stage, {})
        written = self.outputs
        digests = {dep["path"]: dep["md5"] for dep in known.get("deps", ())}
        sources = {path: digest for path, digest in digests.items() if path not in written}
        return {"cmd": known["cmd"], **sources} if known else {}

    def parameters(self, stage: str) -> dict[str, Any]:
        """What ``stage`` ran with: keys of params.yaml with a dot, and their values."""
        used: dict[str, Any] = {}
        for file in self.stages.get(stage, {}).get("params", {}).values():
            for name, value in file.items():
                section = isinstance(value, Mapping)
                used |= {f"{name}.{key}": value[key] for key in value} if section else {name: value}
        return used
