"""The house keeps its shape: imports run one way, and stages declare the code they run."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "alzmri"

# What each part may import besides itself and the plumbing.
PLUMBING = {"errors", "terminal", "files"}
MAY_IMPORT = {
    "params": {"data.classes"},
    "figure": set(),
    "markdown": set(),
    "data": {"params", "figure"},
    "models": {"params"},
    "training": {
        "evaluation.calibration",
        "evaluation.metrics",
        "models",
        "data",
        "params",
        "tracking",
    },
    "tracking": {"data.classes", "params", "store"},
    "evaluation": {"models", "data", "params", "figure", "markdown"},
    "experiments": {
        "sagemaker",
        "training",
        "evaluation",
        "models",
        "data",
        "params",
        "figure",
        "markdown",
    },
    "clinic": {"inference", "data"},
    "inference": {"evaluation", "models", "data", "params"},
    "store": set(),
    "plots_page": set(),
    "doctor": {"experiments.sweeps.queue", "params", "store", "plots_page"},
    "sagemaker": {"data", "params"},
    "cli": {
        "clinic",
        "data",
        "sagemaker",
        "store",
        "doctor",
        "experiments",
        "inference",
        "plots_page",
    },
    **{name: set() for name in PLUMBING},
    "__init__": set(),
}
STAGES = ("phantom", "prepare", "train", "evaluate", "scope", "export")


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
                        module.startswith(f"alzmri.{name}.") for name in allowed if "." in name
                    )
                    assert fine, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_code_that_shapes_its_outputs(stage):
    """Code that a stage runs but does not declare would leave stale results behind."""
    listing = (
        "import sys; print(*(m.__file__ for n, m in sys.modules.items() if n[:6] == 'alzmri'))"
    )
    files = subprocess.run(
        [sys.executable, "-c", f"import {stage}; {listing}"],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    defined = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    declared = defined.get("do", defined)["deps"]
    declared = [ROOT / path for path in declared if path.startswith("src/")]
    # These carry no choice that could change a number.
    plumbing = [PACKAGE / f"{name}.py" for name in (*PLUMBING, "params", "__init__")]
    plumbing += [PACKAGE / "data/__init__.py", *(PACKAGE / "tracking").glob("*.py")]
    for file in map(Path, files):
        covered = any(file == path or path in file.parents for path in declared)
        assert covered or file in plumbing, f"dvc.yaml: stage {stage} runs {file} undeclared"
    for path in declared:
        assert path.exists(), f"dvc.yaml: stage {stage} declares {path}, which is not there"


def test_a_stage_runs_the_code_beside_it_not_the_installed_package(tmp_path):
    """In a queued experiment the workspace is a copy; an editable install points elsewhere."""
    shutil.copytree(ROOT / "src", tmp_path / "src")
    with (tmp_path / "src/alzmri/params.py").open("a") as handle:
        handle.write("\nprint('the copy')\n")
    for stage in STAGES:
        done = subprocess.run(
            [sys.executable, f"src/{stage}.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "the copy\n"
        assert done.stderr.startswith("error: params.yaml not found")
        assert done.returncode == 2


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys, alzmri.cli; "
        "print(*{n.split('.')[0] for n in sys.modules} & "
        "{'torch', 'numpy', 'albumentations', 'sklearn', 'matplotlib', 'dvc', 'boto3', 'botocore',"
        " 'scipy', 'fastapi', 'uvicorn', 'onnxruntime'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
