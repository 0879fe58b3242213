"""The pages of a report: what they say, that names cannot break them, and how they behave in a browser."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from qgbench.base.errors import QGBenchError, UserError
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.collect import collect
from qgbench.report.data import results_csv
from qgbench.report.figures import CAPTIONS
from qgbench.report.figures.style import BLACK, BLUE, GREY, VERMILLION
from qgbench.report.page import build
from qgbench.report.page.build import write_page
from qgbench.report.page.names import run_slug, slug
from qgbench.report.page.words import headline
from qgbench.report.wording import number, signed
from qgbench.run.record import images_path
from qgbench.spec.arm import ArmName
from tests.report.test_report import GROUP_DICE, GROUP_GAIN, make_images, make_record, make_twins

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="497pt" height="99pt"><text y="9">forest</text></svg>'
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "../../../../etc/passwd",
    "javascript:alert(3)",
    "abc\u202egnp.exe",
    "x" * 300,
    "{{ 7 * 7 }}",
    "</td></tr></table><h1>",
    "' onfocus='alert(4)",
]


class Document(HTMLParser):
    """Elements of a page: tags with attributes, links, ids, and rows of text of each table."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self.board: list[list[str]] = []
        self.text = ""
        self.in_table = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        self.links += [found[key] for key in ("href", "src") if key in found]
        self.ids.add(found.get("id", ""))
        if tag == "table":
            self.tables.append([])
            self.in_table = True
            if "board" in found.get("class", ""):
                self.board = self.tables[-1]
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "small":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        self.in_table = self.in_table and tag != "table"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_table and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data

    @property
    def cells(self) -> list[list[str]]:
        """Text of the rows that are sorted and filtered, white space joined, without their heading."""
        return [[" ".join(cell.split()) for cell in row] for row in self.board[1:]]


@cache
def read(path: Path) -> Document:
    """Parse a page once for all tests: `site` and `hostile` stay as they were written."""
    return Document(path)


def documents(site: Path) -> list[Document]:
    return [read(path) for path in sorted(site.rglob("*.html"))]


def rewrite(path: Path, **cell: Any) -> None:
    """Change fields of a record's spec and name its run after its method, whatever that may be."""
    data = json.loads(path.read_text())
    data["spec"] |= cell
    data["run_id"] = data["spec"]["method"]
    path.write_text(json.dumps(data))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings of a shipped data set, one of somebody's own; a single, a refused and a one-seed cell; a wreck."""
    folder = tmp_path_factory.mktemp("records")
    curve: dict[str, Any] = {
        "val_dice": [(3, 0.4), (6, 0.6), (9, 0.55)],
        "warnings": ["the loss was not finite at step 12"],
    }
    curve["near_copies"] = {"val": [], "test": ["image001", "image002"]}
    for regime in ("n28@grouped", "n14@grouped"):
        place = {"dataset": "ph2", "regime": regime}
        make_twins(folder / regime, method="fixmatch", **place)
        make_twins(folder / regime, method="cps", **place)
        for seed in range(3):
            make_record(folder / regime, GROUP_DICE, method="supervised", seed=seed, **place, fields=curve)
            make_record(folder / regime, GROUP_DICE, method="fixmatch", addon="qw-shuffled", seed=seed, **place)
            make_record(folder / regime, GROUP_DICE, missed=2, method="ict", seed=seed, **place)
            make_record(folder / regime, GROUP_DICE, method="ict", addon="qar", seed=seed, precision="bf16", **place)
    make_twins(folder / "own", seeds=1, method="lab.py:Mine", dataset="my_own", regime="all@image")
    (folder / "wreck").mkdir()
    (folder / "wreck" / "record.json").write_text('{"cell"')
    return folder


@pytest.fixture(scope="module")
def analysis(records: Path) -> Analysis:
    return analyse(collect([records]))


@pytest.fixture(scope="module")
def small(records: Path) -> Analysis:
    """Two records: for what does not depend on what the pages say."""
    return analyse(collect([records / "own"]))


@pytest.fixture(scope="module")
def site(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_page(analysis, folder / "page", {"answer": {"answer.svg": SVG}, "forest": {"forest.svg": SVG}})
    return folder / "page"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about records whose every name is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    for place, name in enumerate(HOSTILE):
        for addon in ("", "qw"):
            images = make_images(GROUP_DICE + GROUP_GAIN if addon else GROUP_DICE)
            images.loc[0, ["id", "group"]] = [f"image{name}", name]
            packages = {"packages": {name: name}, "created": name, "python": name, "hardware": {name: name}}
            record = make_record(
                folder / "records" / str(place),
                GROUP_DICE,
                images=images,
                addon=addon,
                audited=bool(addon),
                fields={"warnings": [name]},
            )
            data = json.loads(record.read_text())
            data["provenance"] |= packages
            data["settings"]["method"] = {name: {name: name}}
            record.write_text(json.dumps(data))
            rewrite(record, method=name, dataset=name, arch=name, encoder=name, overrides={name: [name]})
    found = analyse(collect([folder / "records"]))
    assert len(found.sections) == len(HOSTILE)
    write_page(found, folder / "page")
    return folder / "page"


class TestContent:
    def test_leaderboard_has_a_row_for_each_cell_with_the_numbers_of_the_analysis(
        self, analysis: Analysis, site: Path
    ) -> None:
        expected = []
        for section in analysis.sections:
            against = {
                c.name: c
                for c in section.contrasts
                if c.name.addon and c.reference == c.name.without_addon and c.kind != "asked"
            }
            for name, scores in section.cells.items():
                gain = against[name].difference if name in against else None
                expected.append(
                    (
                        number(scores.estimate.mean, 100),
                        signed(gain.estimate.mean, 100) if gain else "refused" if name in against else "",
                        number(scores.beside["hd95"].mean),
                        number(scores.beside["missed_share"].mean, 100),
                        " ".join(map(str, scores.seeds)),
                    )
                )
        rows = read(site / "index.html").cells
        found = [
            (row[2].split()[0], row[3].split()[0] if row[3] else "", row[7].split()[0], row[8].split()[0], row[9])
            for row in rows
        ]
        assert found == expected
        assert len(rows) == 18

    def test_interval_stands_in_the_leaderboard_and_p_among_the_comparisons(
        self, analysis: Analysis, site: Path
    ) -> None:
        section = analysis.sections[1]
        (contrast,) = [c for c in section.contrasts if c.name == ArmName("fixmatch", "", "qw") and c.kind == "twin"]
        assert contrast.difference is not None
        low, high = contrast.difference.estimate.interval or (0, 0)
        (row,) = [r for r in read(site / "index.html").cells if r[:2] == ["FixMatch", "QW"] and r[5] == "28 labels"]
        assert row[4:7] == ["PH2", "28 labels", "unet"]
        assert row[3] == f"+2.0 {100 * low:.1f} to {100 * high:.1f}"
        (row,) = [
            r
            for r in read(site / "comparisons.html").cells
            if r[:2] == ["FixMatch + QW", "FixMatch"] and r[6] == "28 labels"
        ]
        assert float(row[3]) == pytest.approx(contrast.holm_p, rel=0.05)
        assert float(row[4]) == pytest.approx(contrast.difference.estimate.p_one_sided, rel=0.05)

    def test_first_screen_is_a_sentence_a_figure_and_the_methods_with_and_without(
        self, analysis: Analysis, site: Path
    ) -> None:
        found = read(site / "index.html")
        assert "With the add-on Dice is better in 4 of 5 pairs; not settled in 1." in " ".join(found.text.split())
        assert next(a["src"] for tag, a in found.tags if tag == "img") == "figures/answer.svg"
        rows = {row[0].split()[0]: [cell.split()[0] for cell in row[1:]] for row in found.tables[0][1:]}
        of_ph2 = [section for section in analysis.sections if section.setting.dataset == "ph2"]
        mean = 100 * np.mean([section.cells[ArmName("cps", "", "")].table for section in of_ph2])
        assert rows["FixMatch"] == rows["CPS"] == [f"{mean:.1f}", f"{mean + 2:.1f}", "+2.0"]
        assert rows["Supervised"] == [f"{100 * GROUP_DICE.mean():.1f}", "–", "–"]
        assert list(rows) == ["CPS", "FixMatch", "Supervised", "ICT"], "best first"
        assert len(found.tables[0]) == 5

    def test_top_clique_is_marked(self, analysis: Analysis, site: Path) -> None:
        marked = [
            "best" in attributes.get("class", "")
            for tag, attributes in read(site / "index.html").tags
            if tag == "td" and attributes.get("class", "") in ("ci mean", "ci mean best")
        ]
        assert marked == [name in section.best for section in analysis.sections for name in section.cells]
        assert any(marked)
        assert not all(marked)

    def test_protocol_stands_above_every_number(self, site: Path) -> None:
        pages = [site / "index.html", *site.glob("contrasts/*.html"), *site.glob("runs/*.html")]
        assert all("small v1: not a replication of the paper's experiments" in read(page).text for page in pages)

    def test_data_hold_full_precision(self, analysis: Analysis, site: Path) -> None:
        with (site / "results.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        cells = [scores for section in analysis.sections for scores in section.cells.values()]
        assert [float(row["mean"]) for row in table if row["kind"] == "cell"] == [s.estimate.mean for s in cells]
        twin = next(row for row in table if row["method"] == "cps" and row["kind"] == "twin")
        assert float(twin["mean"]) == pytest.approx(0.02)
        assert float(twin["p_holm"]) == pytest.approx(min(1, 4 * float(twin["p"])))

    @pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t"])
    def test_no_spreadsheet_runs_a_name_as_a_formula(self, tmp_path: Path, sign: str) -> None:
        name = f'{sign}HYPERLINK("http://x.y","z")'
        rewrite(make_record(tmp_path / "r", GROUP_DICE), method=name)
        found = analyse(collect([tmp_path / "r"]))
        (cell,) = found.sections[0].cells.values()
        row, *_ = csv.DictReader(io.StringIO(results_csv(found, guarded=True)))
        assert row["method"] == f"'{name}"
        assert float(row["mean"]) == cell.estimate.mean, "numbers stay numbers"
        row, *_ = csv.DictReader(io.StringIO(results_csv(found)))
        assert row["method"] == name, "programs read names as they are"

    def test_every_contrast_has_a_page_that_says_it_in_words(self, analysis: Analysis, site: Path) -> None:
        contrasts = [c for section in analysis.sections for c in section.contrasts]
        texts = [" ".join(read(page).text.split()) for page in site.glob("contrasts/*.html")]
        assert len(texts) == len(contrasts) == len(read(site / "comparisons.html").cells)
        said = [headline(contrast, "", analysis.measure).partition(" on ")[0] for contrast in contrasts]
        assert all(any(words in text for text in texts) for words in said)
        assert any(
            re.search(
                r"FixMatch \+ QW against FixMatch on PH2, 28 labels: \+2\.0 Dice points, CI 0\.9 to 3\.1; 16 images "
                r"in 8 groups, 3 seeds; one-sided p 0\.0\d+\.",
                text,
            )
            for text in texts
        )
        assert any("refused, precision differs at seed 0" in text for text in texts)
        assert any("p is withheld: one seed says nothing about other seeds." in text for text in texts)
        assert any("no usable record with an add-on" in text for text in texts)

    def test_contrast_page_shows_each_seed_and_links_the_runs(self, site: Path) -> None:
        (page,) = site.glob("contrasts/ph2-n28-grouped-unet-fixmatch-qw-vs-fixmatch-twin-*.html")
        found = read(page)
        runs = [link for link in found.links if link.startswith("../runs/")]
        assert len(set(runs)) == 6
        assert [cell.strip() for cell in found.tables[1][1][1:]] == [
            f"{100 * GROUP_DICE.mean() + 2:.2f}",
            f"{100 * GROUP_DICE.mean():.2f}",
            "+2.00",
        ]

    def test_run_page_shows_every_row_of_its_csv(self, analysis: Analysis, site: Path) -> None:
        run = next(r for s in analysis.sections for r in s.runs if r.record.spec.method == "ict" and r.seed == 1)
        found = read(site / "runs" / f"{run_slug(run)}.html")
        with images_path(run.path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        shown = {row[0].strip(): row for row in found.tables[-1][1:]}
        assert list(shown) == [row["id"] for row in rows]
        assert [cell.strip() for cell in shown["image000"]][:7] == ["image000", "g0", "30", "40", "100", "0", "0"]
        assert shown["image000"][11].strip() == "–"
        assert shown["image000"][16].strip() == "missed"
        for row in rows[2:]:
            assert float(shown[row["id"]][7]) == pytest.approx(100 * float(row["dice"]), abs=0.05)
            assert float(shown[row["id"]][11]) == pytest.approx(float(row["hd95"]), abs=0.05)

    def test_run_page_shows_configuration_provenance_audit_and_warnings(self, analysis: Analysis, site: Path) -> None:
        runs = [run for section in analysis.sections for run in section.runs]
        supervised = next(run for run in runs if run.record.spec.method == "supervised")
        found = read(site / "runs" / f"{run_slug(supervised)}.html")
        assert "the loss was not finite at step 12" in found.text
        assert ["near copies in test", "2"] in [row for table in found.tables for row in table]
        assert "near copies in val" not in found.text
        assert supervised.record.provenance.created in found.text
        audited = next(run for run in runs if run.record.audit is not None and run.seed == 2)
        found = read(site / "runs" / f"{run_slug(audited)}.html")
        rows = [[cell.strip() for cell in row] for table in found.tables for row in table]
        assert ["pseudo-labels at 25 %", "g", "80.0", "0.700", "0.600", "0.100", "10"] in rows

    def test_cards(self, site: Path) -> None:
        methods, datasets = read(site / "methods.html").text, read(site / "datasets.html").text
        assert "confident labels of the weak view supervise the strong view" in methods
        assert "lab.py:Mine" in methods
        assert "ADDI" in datasets or "dermoscop" in datasets
        assert "none ships with qgbench" in datasets

    def test_problems_and_figures(self, site: Path) -> None:
        problems = read(site / "problems.html").text
        assert "wreck" in problems
        assert "refused: precision differs at seed 0" in problems
        comparisons = read(site / "comparisons.html")
        assert [link for link in comparisons.links if link.startswith("figures/")] == ["figures/forest.svg"]
        drawn = {path.name: path.read_bytes() for path in (site / "figures").iterdir()}
        assert drawn == {"answer.svg": SVG, "forest.svg": SVG}
        assert CAPTIONS["forest"] in comparisons.text

    def test_records_are_copied_and_no_pictures(self, records: Path, analysis: Analysis, site: Path) -> None:
        (records / "n28@grouped").joinpath("cases.png").write_bytes(b"\x89PNG")
        runs = [run for section in analysis.sections for run in section.runs]
        for run in runs:
            copy = site / "data" / run_slug(run)
            assert (copy / "record.json").read_bytes() == run.path.read_bytes()
            assert (copy / "images.csv").read_bytes() == images_path(run.path).read_bytes()
        assert len(collect([site / "data"]).runs) == len(runs)
        assert {path.name for path in (site / "data").rglob("*") if path.is_file()} == {"record.json", "images.csv"}

    def test_same_records_give_the_same_bytes(self, analysis: Analysis, site: Path, tmp_path: Path) -> None:
        write_page(analysis, tmp_path / "again")
        for path in tmp_path.rglob("again/**/*"):
            if path.is_file() and path.name not in ("index.html", "comparisons.html"):  # they show figures
                assert path.read_bytes() == (site / path.relative_to(tmp_path / "again")).read_bytes()


class TestSafety:
    @pytest.mark.parametrize("which", ["site", "hostile"])
    def test_every_internal_link_resolves_and_nothing_is_fetched(
        self, which: str, request: pytest.FixtureRequest
    ) -> None:
        folder: Path = request.getfixturevalue(which)
        found = {str(page.path): page for page in documents(folder)}
        files = {str(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
        for page in found.values():
            for link in page.links:
                if link == "data:,":
                    continue
                if link.startswith("http"):
                    assert page.path.name == "datasets.html"
                    continue
                place, _, fragment = link.partition("#")
                assert re.fullmatch(r"(\.\./)?[\w./-]*", place), link
                target = os.path.normpath(page.path.parent / unquote(place)) if place else str(page.path)
                assert target in files, link
                if fragment and "=" not in fragment:
                    assert fragment in found[target].ids, link
            fetched = [(tag, a) for tag, a in page.tags if tag in ("script", "link", "img", "iframe", "object")]
            assert not any(a.get(key, "").startswith(("http", "//")) for _, a in fetched for key in ("src", "href"))

    @pytest.mark.parametrize("which", ["site", "hostile"])
    def test_no_script_but_the_pages_own(self, which: str, request: pytest.FixtureRequest) -> None:
        for page in documents(request.getfixturevalue(which)):
            policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            scripts = [a for tag, a in page.tags if tag == "script"]
            assert [Path(script["src"]).name for script in scripts] == ["page.js"]
            assert not any(tag in ("iframe", "object", "embed", "base", "style") for tag, _ in page.tags)
            assert not any(key.startswith("on") or key == "style" for _, a in page.tags for key in a)

    def test_hostile_names_are_shown_as_they_are_and_stay_inside(self, hostile: Path) -> None:
        assert all(re.fullmatch(r"[a-z0-9-]{1,90}(\.html)?", p.name) for p in hostile.glob("contrasts/*.html"))
        assert all(re.fullmatch(r"[a-z0-9-]{1,90}", path.name) for path in (hostile / "data").iterdir())
        assert {path.name for path in hostile.parent.iterdir()} == {"page", "records"}
        rows = read(hostile / "index.html").cells
        assert len(rows) == 2 * len(HOSTILE)
        for name in HOSTILE:
            shown = name.replace("\u202e", "⟨U+202E⟩")
            assert sum(row[6] == shown for row in rows) == 2, name
        assert not any("\u202e" in path.read_text() for path in hostile.rglob("*.html"))

    def test_names_that_differ_only_in_signs_have_files_of_their_own(self) -> None:
        assert slug("a/b") != slug("a b") != slug("A b")
        assert slug("a", "b") != slug("a b")
        assert slug("ab", "c") != slug("a", "bc")
        assert re.fullmatch(r"[0-9a-f]{10}", slug("\u202e", "../"))

    def test_a_cell_that_is_no_number_is_refused_by_name_and_escaped(self, tmp_path: Path) -> None:
        record = make_record(tmp_path / "r", GROUP_DICE)
        table = images_path(record)
        lines = table.read_text().split("\n")
        lines[1] = lines[1].replace(",90,", ",<b>,", 1)
        assert "<b>" in lines[1]
        table.write_text("\n".join(lines))
        write_page(analyse(collect([tmp_path / "r"])), tmp_path / "page")
        text = (tmp_path / "page" / "problems.html").read_text()
        assert f"{table.name} has a cell that is not a number" in text
        assert "&lt;b&gt;" in text
        assert "<b>" not in text

    def test_a_method_that_names_a_file_has_it_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret.py").write_text('"""Top secret."""\n')
        rewrite(make_record(tmp_path / "r", GROUP_DICE), method=str(tmp_path / "secret.py"))
        write_page(analyse(collect([tmp_path / "r"])), tmp_path / "page")
        assert "Top secret" not in (tmp_path / "page" / "methods.html").read_text()

    def test_torch_is_not_imported(self, records: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from qgbench.report.analysis import analyse\n"
            "from qgbench.report.collect import collect; from qgbench.report.page.build import write_page\n"
            "write_page(analyse(collect([Path(sys.argv[1])])), Path(sys.argv[2])); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, str(records / "own"), str(tmp_path / "page")], check=True)


class TestFolder:
    def test_runs_may_do_without_pages(self, analysis: Analysis, tmp_path: Path) -> None:
        write_page(analysis, tmp_path / "page", run_pages=False)
        assert not {"runs", "data"} & {path.name for path in (tmp_path / "page").iterdir()}
        pages = list((tmp_path / "page").rglob("*.html"))
        links = [(page, link) for page in pages for link in re.findall(r'href="([^"#?]+)', page.read_text())]
        assert len(links) > 20
        local = [(page, link) for page, link in links if not link.startswith(("http", "data:"))]
        assert [link for page, link in local if not (page.parent / link).exists()] == []
        assert re.search(r'<td class="seeds"[^>]*>0 1', (tmp_path / "page" / "index.html").read_text())

    def test_a_page_is_replaced_whole(self, small: Analysis, tmp_path: Path) -> None:
        write_page(small, tmp_path / "page")
        (tmp_path / "page" / "stale.html").write_text("old")
        assert write_page(small, tmp_path / "page") == tmp_path / "page" / "index.html"
        assert not (tmp_path / "page" / "stale.html").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["page"], "nothing is left beside it"

    def test_anything_else_is_refused(self, small: Analysis, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("precious")
        (tmp_path / "file").write_text("precious")
        with pytest.raises(UserError, match="holds something else"):
            write_page(small, tmp_path / "mine")
        with pytest.raises(UserError, match="is a file"):
            write_page(small, tmp_path / "file")
        assert (tmp_path / "mine" / "thesis.tex").read_text() == (tmp_path / "file").read_text() == "precious"
        (tmp_path / "empty").mkdir()
        assert write_page(small, tmp_path / "empty").is_file()

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_a_failure_leaves_the_earlier_page(
        self, small: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        write_page(small, tmp_path / "page")
        (tmp_path / "page" / "old").write_text("kept")

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(build, "images_body", fail)
        with pytest.raises(QGBenchError if isinstance(error, OSError) else KeyboardInterrupt):
            write_page(small, tmp_path / "page")
        assert (tmp_path / "page" / "old").read_text() == "kept"
        assert [path.name for path in tmp_path.iterdir()] == ["page"]

    def test_a_failed_move_puts_the_earlier_page_back(
        self, small: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_page(small, tmp_path / "page")
        (tmp_path / "page" / "old").write_text("kept")
        original = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise OSError(5, "Input/output error")
            return original(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(QGBenchError, match="Input/output error"):
            write_page(small, tmp_path / "page")
        assert (tmp_path / "page" / "old").read_text() == "kept"
        assert [path.name for path in tmp_path.iterdir()] == ["page"]

    def test_records_that_vanished_meanwhile_are_named(self, tmp_path: Path) -> None:
        record = make_record(tmp_path / "r", GROUP_DICE)
        found = analyse(collect([tmp_path / "r"]))
        images_path(record).unlink()
        with pytest.raises(QGBenchError, match=r"images\.csv"):
            write_page(found, tmp_path / "page")
        assert not (tmp_path / "page").exists()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_of_4_5_on_every_background(site: Path, scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (site / "static" / "page.css").read_text(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for text in ("ink", "soft", "link", "gain", "loss"):
        for ground in ("paper", "raised", "note"):
            dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def in_the_dark(colour: str, invert: float) -> str:
    """A colour of a figure as the style sheet shows it: inverted, then turned by half a circle (Filter Effects 1)."""
    turned = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    shown = np.clip(turned @ (invert + values * (1 - 2 * invert)), 0, 1)
    return "#" + "".join(f"{round(255 * value):02x}" for value in shown)


def test_figures_have_contrast_in_the_light_and_in_the_dark(site: Path) -> None:
    style = (site / "static" / "page.css").read_text()
    (invert,) = re.findall(r"filter: invert\(([\d.]+)\) hue-rotate\(180deg\)", style)
    for shown in (str, lambda colour: in_the_dark(colour, float(invert))):
        for colour, least in ((BLACK, 4.5), (GREY, 4.5), (BLUE, 3), (VERMILLION, 3)):
            dark, light = sorted((luminance(shown(colour)), luminance(shown("#ffffff"))))
            assert (light + 0.05) / (dark + 0.05) >= least, (colour, shown(colour))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine, driven by playwright; without one of the two the tests are skipped."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def watched(browser: Any) -> tuple[Any, list[str]]:
    """The one tab of all tests, because each more takes a third of a second, and what went wrong in it."""
    page = browser.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (faults.append(f"dialogue: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(f"request: {r.url}"))
    page.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
    return page, faults


@pytest.fixture
def tab(watched: tuple[Any, list[str]]) -> Iterator[Any]:
    """An empty tab in which any error, message on the console, dialogue or request to a network fails the test."""
    page, faults = watched
    faults.clear()
    page.set_viewport_size({"width": 1280, "height": 800})
    yield page
    page.goto("about:blank")
    assert faults == []


PHONE = {"width": 360, "height": 740}
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


OPEN_ALL = "() => { for (const fold of document.querySelectorAll('details')) fold.open = true; }"
BROKEN_WORDS = """() => {
  const found = [], range = document.createRange();
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (/:\\/\\/|[0-9a-f]{20}/.test(node.textContent)) continue; // addresses and hashes
    for (const word of node.textContent.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) found.push(word[0]);
    }
  }
  return found;
}"""


def column(tab: Any, number: int) -> list[str]:
    """Text of a column's visible rows."""
    return tab.eval_on_selector_all(
        "table.board tbody tr",
        f"rows => rows.filter(r => !r.hidden).map(r => r.cells[{number}].innerText.trim().split('\\n')[0])",
    )


def numbers(texts: list[str]) -> list[float]:
    """The numbers that texts begin with: an interval may follow."""
    found = [re.match(r"[+−]?\d+\.\d+(?!\S)", text) for text in texts]
    return [float(match[0].replace("−", "-")) for match in found if match]


class TestBrowser:
    def test_click_and_keyboard_sort(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri() + "#board")
        original = column(tab, 2)
        heading = tab.locator("table.board thead th").nth(2)
        assert heading.get_attribute("aria-sort") == "none"
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        assert numbers(column(tab, 2)) == sorted(numbers(original), reverse=True)
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "ascending"
        assert numbers(column(tab, 2)) == sorted(numbers(original))
        assert sorted(column(tab, 2)) == sorted(original)
        assert tab.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 1

    def test_missing_values_are_last_both_ways(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri() + "#board")
        button = tab.locator("table.board thead th").nth(3).locator("button")
        for _ in range(2):
            button.click()
            shown = column(tab, 3)
            known = len(numbers(shown))
            assert 0 < known < len(shown)
            assert len(numbers(shown[:known])) == known

    def test_text_columns_sort_in_natural_order(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri() + "#board")
        tab.locator("table.board thead th").nth(5).locator("button").click()
        assert list(dict.fromkeys(column(tab, 5))) == ["14 labels", "28 labels", "all labels, image split"]

    def test_filters_and_search_are_announced_and_kept_in_the_address(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri() + "#board")
        status = tab.locator("[role=status]")
        assert status.get_attribute("aria-live") == "polite"
        assert status.inner_text() == "18 rows"
        tab.select_option("select[name=regime]", "n28@grouped")
        assert set(column(tab, 5)) == {"28 labels"}
        tab.select_option("select[name=addon]", "none")
        assert set(column(tab, 1)) == {""}
        assert status.inner_text() == "4 of 18 rows"
        tab.select_option("select[name=addon]", "")
        tab.fill("input[name=q]", "FIXMATCH ph2")
        assert column(tab, 0) == ["FixMatch"] * 3
        tab.locator("table.board thead th").nth(1).locator("button").click()
        shown = column(tab, 1)
        tab.reload()
        assert column(tab, 1) == shown
        assert tab.input_value("input[name=q]") == "FIXMATCH ph2"
        assert status.inner_text() == "3 of 18 rows"
        tab.locator("button[type=reset]").click()
        tab.get_by_text("18 rows", exact=True).wait_for()  # a form is reset after its event: rows come back then
        assert status.inner_text() == "18 rows"
        assert "#" not in tab.url
        tab.fill("input[name=q]", "nothing of that name")
        assert status.inner_text() == "0 of 18 rows"

    def test_links_with_a_choice_lead_to_it(self, site: Path, tab: Any) -> None:
        tab.goto((site / "methods.html").as_uri())
        tab.locator("article", has_text="lab.py:Mine").get_by_text("Its results").click()
        tab.locator("form.filters").wait_for()
        assert column(tab, 0) == ["lab.py:Mine"] * 2
        (page,) = site.glob("contrasts/ph2-n28-grouped-unet-fixmatch-qw-vs-fixmatch-twin-*.html")
        tab.goto(page.as_uri())
        tab.get_by_text("All comparisons of this setting").click()
        tab.locator("form.filters").wait_for()
        assert set(column(tab, 6)) == {"28 labels"}

    def test_figures_are_loaded(self, site: Path, tab: Any) -> None:
        tab.goto((site / "comparisons.html").as_uri())
        tab.locator("figure.picture img").scroll_into_view_if_needed()
        tab.wait_for_function("document.querySelector('figure.picture img').naturalWidth > 0")

    def test_per_image_table_sorts(self, site: Path, tab: Any) -> None:
        tab.goto(next(site.glob("runs/ph2-n28-grouped-unet-cps-qw-*.html")).as_uri())
        heading = tab.locator("table.images thead th").nth(7)
        heading.locator("button").click()
        dice = tab.eval_on_selector_all("table.images tbody tr", "rows => rows.map(r => Number(r.cells[7].innerText))")
        assert dice == sorted(dice)
        assert len(dice) == 16

    def test_first_screen_of_a_desk_holds_sentence_figure_and_leaderboard(self, site: Path, tab: Any) -> None:
        tab.set_viewport_size({"width": 1200, "height": 800})
        tab.goto((site / "index.html").as_uri())
        for part in ("h1", ".first img", ".standings", "a[href='#board']"):
            box = tab.locator(part).bounding_box()
            assert box["y"] + box["height"] <= 800, part
            assert box["width"] > 60, part

    def test_statistics_are_folded_until_a_link_or_paper_needs_them(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri())
        folds = tab.locator("details")
        summaries = folds.locator("> summary span").all_inner_texts()
        assert len(summaries) == folds.count() >= 3
        assert all(len(said) > 10 for said in summaries)
        assert tab.locator("details[open]").count() == 0
        assert not tab.locator("table.board").is_visible()
        tab.get_by_text("All 18 cells").click()
        assert tab.locator("table.board").is_visible()
        assert tab.locator("details[open]").count() == 1
        for event, opened in (("beforeprint", folds.count()), ("afterprint", 1)):
            tab.evaluate("name => dispatchEvent(new Event(name)) && null", event)
            assert tab.locator("details[open]").count() == opened
        tab.goto("about:blank")
        tab.goto((site / "index.html").as_uri() + "#words")
        assert tab.locator("dt", has_text="Kendall's tau").is_visible()
        tab.goto("about:blank")
        tab.goto((site / "index.html").as_uri() + "#regime=n28%40grouped")
        assert set(column(tab, 5)) == {"28 labels"}

    def test_all_is_done_by_keyboard_and_its_focus_is_seen(self, site: Path, tab: Any) -> None:
        tab.goto((site / "index.html").as_uri())
        focus = (
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, e.innerText?.trim().split('\\n')[0], s.outlineStyle, s.outlineWidth]; }"
        )

        def tab_to(tag: str, text: str) -> None:
            for _ in range(40):
                tab.keyboard.press("Tab")
                found = tab.evaluate(focus)
                assert found[2] != "none", found
                assert found[3] != "0px", found
                reached.append(found[0])
                if found[0] == tag and found[1].startswith(text):
                    return
            raise AssertionError(f"no {tag} {text} among {reached}")

        reached: list[str] = []
        tab_to("A", "Skip to the content")
        tab.keyboard.press("Enter")
        tab_to("A", "All 18 cells")
        tab_to("SUMMARY", "Whole leaderboard")
        for key in ("Enter", "Enter", " "):
            tab.keyboard.press(key)
        assert tab.locator("details[open]").count() == 1
        tab_to("BUTTON", "Method")
        heading = tab.locator("table.board thead th").first
        for key, order in (("Enter", "ascending"), (" ", "descending")):
            tab.keyboard.press(key)
            assert heading.get_attribute("aria-sort") == order
        assert {"A", "SELECT", "INPUT", "BUTTON", "DIV", "SUMMARY"} <= set(reached)

    def test_a_phone_shows_numbers_and_whole_words_and_scrolls_nothing_sideways(self, site: Path, tab: Any) -> None:
        for page in [*site.glob("*.html"), *list(site.glob("contrasts/*"))[:4], *list(site.glob("runs/*"))[:4]]:
            for width in (360, 390):
                tab.set_viewport_size({"width": width, "height": 844})
                tab.goto(page.as_uri())
                tab.evaluate(OPEN_ALL)
                assert tab.evaluate(WIDER) == 0, page.name
            assert tab.evaluate(BROKEN_WORDS) == [], page.name
        tab.goto((site / "index.html").as_uri())
        cells = tab.eval_on_selector_all(".standings td", "all => all.map(td => td.getBoundingClientRect().right)")
        assert len(cells) == 12
        assert max(cells) <= 390
        assert tab.eval_on_selector(".first img", "img => img.getBoundingClientRect().right") <= 390
        tab.goto((site / "index.html").as_uri() + "#board")
        assert tab.locator("table.board tbody td").nth(1).bounding_box()["x"] < 260
        tab.locator("table.board").evaluate("table => { table.parentElement.scrollLeft = 300; }")
        assert tab.locator("table.board tbody th").first.bounding_box()["x"] >= 0, "the first column stays in sight"

    def test_hostile_names_run_nothing_and_fit_a_phone(self, hostile: Path, tab: Any) -> None:
        tab.set_viewport_size(PHONE)
        for page in [*hostile.glob("*.html"), *hostile.glob("contrasts/*"), *list(hostile.glob("runs/*"))[::2]]:
            tab.goto(page.as_uri())
            assert tab.locator("img, h1 img, td h1").count() == 0
            assert tab.evaluate(WIDER) == 0, page.name
        tab.goto((hostile / "index.html").as_uri() + "#board")
        for name in HOSTILE:
            shown = name.replace("\u202e", "⟨U+202E⟩")
            tab.select_option("select[name=dataset]", shown)
            assert tab.locator("[role=status]").inner_text() == f"2 of {2 * len(HOSTILE)} rows"
            tab.reload()
            assert tab.input_value("select[name=dataset]") == shown
        tab.goto((hostile / "index.html").as_uri() + "#sort=constructor&dir=constructor&dataset=%3Cimg%3E")
        assert tab.locator("[role=status]").inner_text() == f"{2 * len(HOSTILE)} rows"

    def test_inline_script_would_be_refused(self, site: Path, browser: Any) -> None:
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.goto((site / "index.html").as_uri())
        page.evaluate(
            "() => { const s = document.createElement('script'); s.text = 'window.ran = 1'; document.body.append(s); }"
        )
        assert page.evaluate("window.ran") is None
        assert "Content Security Policy" in messages[0]
        page.close()

    def test_of_many_sorted_rows_the_first_are_shown_and_all_on_demand(
        self, site: Path, tab: Any, tmp_path: Path
    ) -> None:
        for folder in ("static", "figures"):
            shutil.copytree(site / folder, tmp_path / folder)
        text = (site / "index.html").read_text()
        above, board, rest = text.partition('<table class="sortable board">')
        head, _, rest = rest.partition("<tbody>")
        body, _, tail = rest.partition("</tbody>")
        (tmp_path / "index.html").write_text(f"{above}{board}{head}<tbody>{body * 24}</tbody>{tail}")
        tab.goto((tmp_path / "index.html").as_uri() + "#board")
        assert tab.locator("[role=status]").inner_text() == "432 rows, the first 400 shown"
        assert len(column(tab, 0)) == 400
        for place in (0, 2):
            button = tab.locator("table.board thead th").nth(place).locator("button")
            for _ in range(2):  # so that the order ends as it began
                button.click()
        assert len(column(tab, 0)) == 400
        first = column(tab, 2)
        tab.get_by_text("Show all 432 rows").click()
        shown = column(tab, 2)
        assert len(shown) == 432
        assert numbers(first) == sorted(numbers(shown))[:400]
