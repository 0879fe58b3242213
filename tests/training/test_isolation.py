"""Nothing that trains can reach the test images, and nothing that reports can train."""

import ast
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

PACKAGE = Path(str(resources.files("qgbench")))
EVALUATION = "qgbench.training.evaluation"


def imports(module: str) -> set[str]:
    """Modules of qgbench that a module's source imports, at any depth of its code."""
    file = PACKAGE.parent / (module.replace(".", "/") + ".py")
    if module.startswith("qgbench.baselines."):
        import qgbench.baselines

        file = Path(qgbench.baselines.__path__[0]) / f"{module.rpartition('.')[2]}.py"
    if not file.is_file():
        file = PACKAGE.parent / module.replace(".", "/") / "__init__.py"
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qgbench"):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name.islower()}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("qgbench")}
    return {name for name in found if is_module(name)}


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports(name)
    return seen


@pytest.mark.parametrize(
    "module",
    [
        "qgbench.training.loop",
        "qgbench.training.objective",
        "qgbench.quality.fit",
        "qgbench.trust.conformance",
        "qgbench.methods",
    ],
)
def test_code_that_trains_cannot_import_the_evaluation(module: str) -> None:
    assert EVALUATION not in reachable(module)


def test_the_walk_finds_the_evaluation_where_it_is_imported() -> None:
    assert EVALUATION in reachable("qgbench.run.carry_out")


def test_the_report_and_the_statistics_import_no_torch() -> None:
    code = (
        "import sys, qgbench.report.write, qgbench.report.outcome, qgbench.report.power, qgbench.trust.verify;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_medpy_is_imported_by_the_judge_alone() -> None:
    sources = [*PACKAGE.rglob("*.py")]
    assert len(sources) > 30
    found = [file for file in sources if "import medpy" in file.read_text() or "from medpy" in file.read_text()]
    assert found == [PACKAGE / "trust/judge.py"]
