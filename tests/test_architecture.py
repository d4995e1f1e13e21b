"""The house keeps its shape: imports run one way, and stages declare the code they run."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alzmri.training.checkpoints import CODE

from . import forks

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "alzmri"

# What each part may import besides itself and the plumbing.
PLUMBING = {"errors", "terminal", "files", "git", "parallel", "repository"}
MAY_IMPORT = {
    "classes": set(),
    "params": {"classes"},
    "figure": set(),
    "phantom": {"classes"},
    "data": {"classes", "params", "figure"},
    "collections": {"inference", "data", "classes", "params", "figure"},
    "models": {"params"},
    "tracking": {"data.prepared", "params", "store"},
    "training": {"models", "data.prepared", "params", "tracking"},
    "evaluation": {"ood", "models", "data.prepared", "params", "figure"},
    "ood": {"models", "data.prepared", "params"},
    "inference": {"ood", "models", "data", "params"},
    "serving": {"inference", "evaluation.leak", "ood", "models", "data", "params"},
    "experiments": {
        "sagemaker",
        "training",
        "evaluation",
        "inference",
        "ood",
        "data.images",
        "models",
        "classes",
        "params",
        "figure",
    },
    "clinic": {"inference", "data"},
    "aws": set(),
    "store": {"aws"},
    "plots_page": set(),
    "doctor": {"params", "store"},
    "sagemaker": {"aws", "inference", "evaluation.leak", "data.prepared", "params"},
    "cli": {
        "clinic",
        "collections",
        "sagemaker",
        "store",
        "doctor",
        "experiments",
        "inference",
        "serving",
    },
    "__main__": {"cli"},
    **{name: set() for name in PLUMBING},
    "__init__": set(),
}
STAGES = ("phantom", "prepare", "train", "evaluate", "ood", "export")
NO_RESULT = {
    "__init__": "the version, which results record but do not depend on",
    "errors": "",
    "terminal": "what is said, not what is written",
    "files": "how files are written, not what is in them",
    "parallel": "how many threads compute, not what",
    "params": "the schema: the values are dependencies of their own, by key",
    "figure": "how pictures look: no number, no table; `dvc repro -f evaluate` draws them again",
    "tracking": "W&B: reads results",
    "sagemaker": "trains with the same code elsewhere",
}
"""Code that no stage needs to name, and why a change there is harmless."""
DECODING = PACKAGE / "data/images.py"
"""The predictor decodes files with it; export, which uses the predictor, reads packed slices."""
STANDS_FOR = {
    "models/model.json": "train",
    "models/ood.json": "ood",
    "models/ood.safetensors": "ood",
}
"""Outputs that change with the code which made them, so that a stage need not name it again.

``model.json`` holds the run's fingerprint, a digest of that code; ``ood.safetensors`` its numbers,
``ood.json`` the digests of both files of weights.
"""

PRIVATE = re.compile(r"\._[^_]|\.(kombu|celery|dulwich|wandb\.(sdk|proto)|ops\.aten)\b")
"""Of names with a dot before: private by an underscore, by word of their makers, or not ours."""


def _part(module: str) -> str:
    return module.removeprefix("alzmri").lstrip(".").split(".")[0]


def test_imports_run_one_way():
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        allowed = MAY_IMPORT[part] | PLUMBING | {part, ""}
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            for module in modules:
                if module.split(".")[0] == "alzmri" and "__version__" not in module:
                    fine = _part(module) in allowed or any(
                        f"{module}.".startswith(f"alzmri.{name}.")
                        for name in allowed
                        if "." in name
                    )
                    assert fine, f"{path.relative_to(ROOT)} imports {module}"


def test_each_module_and_each_class_has_a_name_of_its_own():
    files = [path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    classes = [
        node.name
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    for names in ([path.stem for path in files], classes):
        assert {name for name in names if names.count(name) > 1} == set()


def _stages() -> dict[str, Any]:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def _imported(file: Path) -> set[Path]:
    """The files of ours that ``file`` imports, at its top or in a function."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = set()
    for module in modules:
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            path = ROOT / "src" / "/".join(parts[:length])
            found |= {path.with_suffix(".py"), path / "__init__.py"}
    return {path for path in found if path.exists() and PACKAGE in path.parents}


def _runs(stage: str) -> set[Path]:
    """All code of ours that a stage imports, but for ``NO_RESULT``."""
    seen: set[Path] = set()
    todo = [ROOT / "src" / f"{stage}.py"]
    while todo:
        file = todo.pop()
        name = str(file.relative_to(PACKAGE).with_suffix("")) if PACKAGE in file.parents else ""
        if file not in seen and not {name, name.split("/")[0]} & set(NO_RESULT):
            seen.add(file)
            todo += _imported(file)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_code_that_shapes_its_outputs(stage):
    """Code that a stage runs but does not declare would leave stale results behind."""
    stages = _stages()
    deps = stages[stage]["deps"]
    assert len(deps) <= 5, "each dependency is a column of `dvc exp show`"
    for path in deps:
        assert not path.startswith("src/") or (ROOT / path).exists()
    for output in set(deps) & set(STANDS_FOR):
        deps = deps + stages[STANDS_FOR[output]]["deps"]
    declared = [ROOT / path for path in deps if path.startswith("src/")]
    harmless = {PACKAGE / "data/__init__.py", *([DECODING] if stage == "export" else [])}
    for file in _runs(stage) - harmless:
        covered = any(file == path or path in file.parents for path in declared)
        assert covered, f"dvc.yaml: stage {stage} runs {file.relative_to(ROOT)} undeclared"


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_declares_no_code_that_it_does_not_run(stage):
    """An edit of such code would retrain for nothing. Export, which is optional, costs little."""
    for path in _stages()[stage]["deps"]:
        if path.startswith("src/"):
            files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
            assert set(files) <= _runs(stage)


def test_model_json_changes_with_the_code_that_trained_it():
    """Its fingerprint covers what the stage train names, so that later stages need not name it."""
    named = {path for path in _stages()["train"]["deps"] if path.startswith("src/")}
    assert {f"src/alzmri/{name}" for name in CODE} == named - {"src/train.py"}


def test_a_stage_runs_the_code_beside_it_not_the_installed_package(tmp_path):
    """In a queued experiment the workspace is a copy; an editable install points elsewhere."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    with (tmp_path / "src/alzmri/params.py").open("a") as handle:
        handle.write("\nprint('the copy')\n")
    for stage in STAGES:
        done = subprocess.run(
            ["python", f"src/{stage}.py"],
            cwd=tmp_path,
            env=forks.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "the copy\n"
        assert done.stderr.startswith("error: params.yaml not found")
        assert done.returncode == 2


def test_no_private_api_of_a_dependency_is_used():
    """A release may change it; so may one of what a dependency happens to bring along."""
    for path in (ROOT / "src").rglob("*.py"):
        nodes, used, foreign = list(ast.walk(ast.parse(path.read_text()))), set(), set()
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                others = [of for of in node.names if not f"{start}{of.name}".startswith("alzmri")]
                used |= {start + of.name for of in others}
                foreign |= {(of.asname or of.name).split(".")[0] for of in others}
        chains = (ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute))
        used |= {name for name in chains if name.split(".")[0] in foreign and "(" not in name}
        found = [name for name in used if PRIVATE.search(f".{name}")]
        assert found == [], path.relative_to(ROOT)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "alzmri.cli",
            "torch numpy albumentations sklearn matplotlib dvc boto3 botocore scipy fastapi uvicorn"
            " onnxruntime",
        ),
        ("train", "sklearn matplotlib wandb scipy.stats pandas dvc boto3 torch._dynamo"),
        ("evaluate", "sklearn wandb scipy.stats pandas dvc boto3 torch._dynamo matplotlib.pyplot"),
    ],
)
def test_a_start_is_quick_because_nothing_heavy_is_imported(module, heavy):
    code = f"import sys, {module}; print(*set({heavy.split()}) & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
