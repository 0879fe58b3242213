"""Reports as they were looked at, byte by byte. To accept a change: ``python -m tests.report.test_golden``."""

import shutil
import subprocess
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgbench.report.analysis import analyse
from qgbench.report.collect import collect
from qgbench.report.declared import DeclaredQuestion, DeclaredSuite
from qgbench.report.write import write_report
from qgbench.spec.arm import ArmName
from qgbench.spec.run_spec import Place, RunSpec
from tests.report.test_report import GROUP_DICE, GROUP_GAIN, make_record, make_twins

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
NAMES = ("report.md", "report.tex")


def make_report(place: Path) -> Path:
    """Two data sets, three methods, controls, a missing twin, a refused one, a name full of specials, a broken file."""
    runs = place / "runs"
    noise = np.random.default_rng(0)
    for dataset in ("ph2", "scd"):
        for method, gain in (("fixmatch", 1.0), ("mean_teacher", 0.2)):
            for seed in range(3):
                base = GROUP_DICE + 0.01 * noise.standard_normal(8).round(3) + 0.01 * seed
                cell = {"dataset": dataset, "method": method, "seed": seed}
                make_record(runs, base, missed=seed, **cell)
                make_record(runs, base + gain * GROUP_GAIN, audited=True, addon="qw", **cell)
        for seed in range(3):
            make_record(
                runs, GROUP_DICE + 0.005 * seed, dataset=dataset, method="fixmatch", addon="qw-shuffled", seed=seed
            )
            make_record(runs, GROUP_DICE - 0.05 + 0.002 * seed, dataset=dataset, method="supervised", seed=seed)
    make_twins(runs, seeds=1, method=r"50% of_{x} & $y$ #1 \z ~ ^", dataset="scd")
    make_record(runs, GROUP_DICE, dataset="ph2", method="cps", addon="qw")
    make_record(runs, GROUP_DICE, dataset="ph2", method="ict")
    make_record(runs, GROUP_DICE, dataset="ph2", method="ict", addon="qw", precision="bf16")
    broken = make_record(runs, GROUP_DICE, dataset="ph2", method="ua_mt")
    broken.write_text("{")
    output = place / "report"
    asked = ["fixmatch+qw:mean_teacher"]
    with chdir(place):  # so that paths in the report are the same everywhere
        collection = collect([Path("runs")])
        suite = declared_of([run.record.spec for run in collection.runs])
        write_report(analyse(collection, asked=asked, suite=suite), output)
    return output


def declared_of(specs: list[RunSpec]) -> DeclaredSuite:
    """All runs and one that was never run, two questions to confirm, further ones, and one without an answer."""
    never = Place("small", "ph2", "n28@grouped", "unet", ArmName("bcp", "", ""), 0)
    regimes = dict.fromkeys(("ph2", "scd"), ("n28@grouped", "n28@grouped"))

    def question(name: str, text: str, *pairs: tuple[str, str]) -> DeclaredQuestion:
        return DeclaredQuestion(name, text, pairs, regimes, ("unet",))

    qw = [(f"{method}+qw", method) for method in ("fixmatch", "mean_teacher", "bcp")]
    return DeclaredSuite(
        name="golden",
        places=frozenset(spec.place for spec in specs) | {never},
        version=specs[0].protocol_version,
        confirm=(
            question("primary", "Does QW change Dice, averaged over two methods and two data sets?", *qw[:2]),
            replace(question("second", "Does QW change Mean Teacher?", qw[1]), margin=0.5),
        ),
        others=(
            question("qw-fixmatch", "Does QW change 100 % of FixMatch_?", qw[0]),
            question("beats", "Do both methods beat supervised training?", *((m, "supervised") for _, m in qw[:2])),
            question("qw-bcp", "Does QW change BCP?", qw[2]),
        ),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_a_report_is_as_it_was_looked_at(made: Path, name: str) -> None:
    assert (made / name).read_text() == (GOLDEN / name).read_text()


def compiled(folder: Path, file: str, passes: int) -> str:
    """Run pdflatex and give what it said last."""
    for _ in range(passes):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_golden_latex_compiles(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "report.tex", tmp_path)
    said = compiled(tmp_path, "report.tex", passes=3)
    for complaint in ("Missing character", "Overfull", "Warning"):
        assert complaint not in said


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_each_table_compiles_in_a_paper_of_its_own(made: Path, tmp_path: Path) -> None:
    tables = sorted((made / "tables").glob("*.tex"))
    assert len(tables) > 10
    body = "\n".join(rf"\input{{{table}}}" for table in tables)
    head = r"\documentclass{article}\usepackage[landscape,margin=10mm]{geometry}\usepackage{booktabs,longtable}"
    (tmp_path / "paper.tex").write_text(rf"{head}\begin{{document}}\scriptsize {body}\end{{document}}")
    compiled(tmp_path, "paper.tex", passes=1)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        report = make_report(Path(place))
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for golden in NAMES:
            shutil.copy(report / golden, GOLDEN / golden)
            print(GOLDEN / golden)
