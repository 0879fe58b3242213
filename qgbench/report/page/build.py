"""The report as a folder of pages that open from disk: leaderboard, comparisons, runs, cards, problems, and the data.

Nothing is fetched when a page is looked at: one style sheet and one script lie in the folder, and a Content-Security-
Policy forbids all others. Names, ids and texts come from records, that is, from anybody: the templates escape all of
them, file names are made by `qgbench.report.page.names`, and characters that do not show are replaced by their code.

Tables are sorted and filtered by 180 lines of JavaScript of our own. itables (DataTables, jQuery) would add 1 MB of
inline script to each page, which no such policy allows, and its rows could not be sorted by keyboard on the heading.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qgbench.base.errors import UserError, unreadable, unwritable
from qgbench.metrics.table import METRICS, Metric
from qgbench.report import wording
from qgbench.report.analysis import Analysis
from qgbench.report.audit import PREDICTS_RULE, not_predicted, predictor_of
from qgbench.report.chapters.across import across_chapter
from qgbench.report.chapters.overview import overview
from qgbench.report.chapters.setting import class_tables
from qgbench.report.chapters.suite import CLASSES_RULE, suite_tables, suite_words
from qgbench.report.chapters.table import Chapter
from qgbench.report.collect import Run, in_unit_of, of_class
from qgbench.report.contrasts import Contrast
from qgbench.report.data import results_csv
from qgbench.report.figures import CAPTIONS
from qgbench.report.glossary import GLOSSARY
from qgbench.report.page import words
from qgbench.report.page.board import NONE, Board, board, protocol_words
from qgbench.report.page.cards import dataset_cards, method_cards
from qgbench.report.page.images import images_body, images_head
from qgbench.report.page.names import contrast_slug, run_slug, visible
from qgbench.report.scores import BESIDE, Scores
from qgbench.report.sections import Section
from qgbench.report.standings import standings
from qgbench.report.wording import MARK, MARK_RULE, protocol_line, protocol_lines, tested_line
from qgbench.run.record import IMAGES_NAME, RECORD_NAME, Record, images_path
from qgbench.spec.arm import ArmName
from qgbench.spec.run_spec import Setting

MARKER = ".qgbench-page"
"""A file in every page's folder: only a folder that has it is ever replaced."""
Figures = Mapping[str, Mapping[str, bytes]]
"""SVG files by kind and name, as `qgbench.report.figures.draw_figures` gives them."""


def write_page(
    analysis: Analysis, output: Path, figures: Figures = MappingProxyType({}), run_pages: bool = True
) -> Path:
    """Write the pages of a report.

    The folder is built beside its place and moved there when it is whole.

    Parameters
    ----------
    analysis : Analysis
    output : Path
        Folder to make. One that holds an earlier page is replaced.
    figures : mapping of str to mapping of str to bytes
        SVG files to show.
    run_pages : bool
        Give each run a page and a copy of its record and per-image table, some 80 KB. Without them the page is small
        enough to be kept beside the records.

    Returns
    -------
    Path
        ``index.html``, where a reader begins.

    Raises
    ------
    UserError
        `output` is a file, or a folder with something else in it.
    QGBenchError
        A file cannot be written, or one of a run cannot be read any more.
    """
    output = output.resolve()
    _refuse_others(output)
    work = output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as name:
            work = Path(name)
            _Site(analysis, work / "new", figures, run_pages).write()
            _refuse_others(output)
            _swap(work / "new", output, work / "old")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not Path(error.filename).is_relative_to(work):
            raise unreadable(Path(error.filename), error) from error
        raise unwritable(f"the page {output}", error, "choose another --output") from error
    return output / "index.html"


def _refuse_others(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder for the page.")
    if output.is_dir() and not (output / MARKER).is_file() and any(output.iterdir()):
        raise UserError(f"{output} holds something else than a page of qgbench; give another folder, or empty it.")


def _swap(new: Path, output: Path, old: Path) -> None:
    """Put a folder in its place, and the earlier one aside; back again where that fails."""
    if output.exists():
        output.rename(old)
    try:
        new.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)


@dataclass
class _Site:
    """All pages of one analysis, written into a folder that does not exist yet."""

    analysis: Analysis
    folder: Path
    figures: Figures
    run_pages: bool
    titles: dict[str, str] = field(init=False)
    templates: Environment = field(init=False)
    rendered: dict[str, Markup] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        runs = [run for section in self.analysis.sections for run in section.runs]
        self.dataset_cards = dataset_cards(runs)
        self.method_cards = method_cards({run.record.spec.method for run in runs})
        self.titles = {each.name: each.card.title if each.card else each.name for each in self.dataset_cards}
        self.templates = _environment()
        self.templates.globals.update(
            what=self.analysis.measure,
            distance_unit=in_unit_of(METRICS["hd95"], runs).unit,
            mixes_units=self.analysis.mixes_units,
            over_classes=self.analysis.over_classes,
            several_classes=any(len(run.record.classes) > 1 for run in runs),
            units=" or ".join(sorted({section.noun for section in self.analysis.sections})),
            nouns=" or ".join(sorted({f"{section.noun}s" for section in self.analysis.sections})),
            titles=self.titles,
            method_anchors={each.name: each.anchor for each in self.method_cards},
            dataset_anchors={each.name: each.anchor for each in self.dataset_cards},
            problem_count=len(self.analysis.problems) + sum(len(s.problems) for s in self.analysis.sections),
            run_pages=self.run_pages,
            captions=CAPTIONS,
            pictures_of=self.figures,
            NONE=NONE,
            MARK=MARK,
            MARK_RULE=MARK_RULE,
            TESTED=tested_line(self.analysis),
            tested=any(one.tested for section in self.analysis.sections for one in section.contrasts),
            PREDICTS_RULE=PREDICTS_RULE,
            GLOSSARY=GLOSSARY,
            CLASSES_RULE=CLASSES_RULE.format(label=self.analysis.measure.label),
            words=words,
            protocol_words=protocol_words,
        )

    def write(self) -> None:
        """Write everything."""
        for name in ("page.css", "page.js"):
            self._put(f"static/{name}", files("qgbench.report.page").joinpath("static", name).read_bytes())
        laid_out = board(self.analysis, self.titles)
        self._leaderboard(laid_out)
        self._page("methods.html", "methods.html", cards=self.method_cards)
        self._page("datasets.html", "datasets.html", cards=self.dataset_cards)
        self._page("problems.html", "problems.html", analysis=self.analysis)
        for pictures in self.figures.values():
            for name, content in pictures.items():
                self._put(f"figures/{name}", content)
        for section in self.analysis.sections:
            of_cells = section.runs_of()
            for contrast in section.contrasts:
                self._contrast(section, of_cells, contrast)
            pages, measures = _pages_by_name(section), _measures(section)
            for run in section.runs if self.run_pages else ():
                self._run(run, section.setting, measures, pages.get(run.record.spec.arm, []))
        self._put(MARKER, b"A page of qgbench: `qgbench report --html` replaces this folder.\n")

    def _put(self, place: str, data: bytes) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _page(self, place: str, template: str, **content: Any) -> None:
        text = self.templates.get_template(template).render(root="../" * place.count("/"), **content)
        self._put(place, text.encode())

    def _facts(self, values: dict[str, Any]) -> Markup:
        """Return nested facts as a table. Most runs share settings, packages and hardware: those are rendered once."""
        key = json.dumps(values)
        if key not in self.rendered:
            self.rendered[key] = Markup(self.templates.get_template("pairs.html").render(items=_flat(values)))
        return self.rendered[key]

    def _leaderboard(self, laid_out: Board) -> None:
        lines = protocol_lines(section.setting for section in self.analysis.sections)
        runs = sum(len(section.runs) for section in self.analysis.sections)
        answers, what = self.analysis.answers, self.analysis.measure
        suite = None if answers is None else (answers, suite_words(answers, what), suite_tables(answers, what))
        asked, said = words.first_words(self.analysis)
        best = standings(self.analysis)
        ranked = [one for one in self.analysis.across if len(one.names) > 1]
        across = [across_chapter(one, addons=suite is None) for one in ranked]
        several = [section for section in self.analysis.sections if len(section.classes) > 1]
        self._page(
            "index.html",
            "index.html",
            board=laid_out,
            protocol_lines=lines,
            run_count=runs,
            suite=suite,
            asked=asked,
            said=said,
            best=best,
            where=words.where_words(best, self.titles) if best.rows else "",
            across=_once(across, suite[1] if suite else ()),
            overview=overview(self.analysis),
            classes=[(each.setting, class_tables(each)) for each in several],
        )
        self._page("comparisons.html", "comparisons.html", board=laid_out, protocol_lines=lines)
        self._put("results.csv", results_csv(self.analysis, guarded=True).encode())

    def _contrast(self, section: Section, of_cells: Mapping[ArmName, list[Run]], contrast: Contrast) -> None:
        both = (str(contrast.name), f"{contrast.name} : {contrast.reference}")
        runs = {
            name: {run.seed: run_slug(run) for run in of_cells.get(name, [])}
            for name in (contrast.name, contrast.reference)
        }
        self._page(
            f"contrasts/{contrast_slug(section.setting, contrast)}.html",
            "contrast.html",
            setting=section.setting,
            contrast=contrast,
            what=section.measure,
            measures=_measures(section, ("dice", "hd95")),
            besides=[in_unit_of(one, section.runs) for one in BESIDE],
            over_classes=section.over_classes,
            several=len(section.classes) > 1,
            noun=section.noun,
            runs=runs,
            means={
                contrast.reference: _seed_means(contrast.reference_scores),
                contrast.name: _seed_means(contrast.scores or contrast.reference_scores),
            },
            gains=_seed_means(contrast.difference),
            seeds=sorted({*runs[contrast.name], *runs[contrast.reference]}),
            protocol_line=protocol_line(section.setting.protocol, section.setting.protocol_version),
            problems=[problem.cause for problem in section.problems if problem.where in both],
        )

    def _run(self, run: Run, setting: Setting, measures: list[Metric], contrasts: list[tuple[Contrast, str]]) -> None:
        page, record = run_slug(run), run.record
        several = len(record.classes) > 1
        self._put(f"data/{page}/{RECORD_NAME}", run.path.read_bytes())
        self._put(f"data/{page}/{IMAGES_NAME}", images_path(run.path).read_bytes())
        self._page(
            f"runs/{page}.html",
            "run.html",
            page=page,
            record=record,
            measures=measures,
            of_classes=[in_unit_of(METRICS[name], [run]) for name in ("dice", "hd95")] if several else [],
            noun=record.noun,
            distance_unit=in_unit_of(METRICS["hd95"], [run]).unit,
            audits_by_class=run.audits_by_class,
            rerun=run.rerun,
            not_predicted=not_predicted(record),
            predictor=predictor_of(record),
            setting=setting,
            name=record.spec.arm,
            contrasts=contrasts,
            facts=[
                ("Cell", self._facts({"run": record.run_id, **record.spec.model_dump(), **_computed(record)})),
                ("Settings", self._facts(record.settings)),
                ("Provenance", self._facts(record.provenance.model_dump(exclude={"packages", "hardware"}))),
                ("Packages and hardware", self._facts(record.provenance.packages | record.provenance.hardware)),
            ],
            head=images_head(run),
            body=images_body(run),
            protocol_line=protocol_line(setting.protocol, setting.protocol_version),
        )


def _once(chapters: Sequence[Chapter], said: Collection[str]) -> list[Chapter]:
    """Return the chapters that have tables, each sentence where it comes first, and none that was said before."""
    said, found = {*said}, []
    for chapter in chapters:
        tables = [replace(one, says="") if one.says in said else one for one in chapter.tables]
        below = [line for line in chapter.below if line not in said]
        said |= {*below, *(one.says for one in tables)}
        found += [replace(chapter, tables=tables, below=below)] if tables else []
    return found


def _measures(section: Section, of_classes: Sequence[str] = ()) -> list[Metric]:
    """Return the metrics that ship in the units of a section, then some of them of each of its classes."""
    own = {name: in_unit_of(metric, section.runs) for name, metric in METRICS.items()}
    classes = section.classes if len(section.classes) > 1 else ()
    return [*own.values(), *(of_class(own[name], one) for name in of_classes for one in classes)]


def _environment() -> Environment:
    templates = Environment(
        loader=PackageLoader("qgbench.report.page"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        number=wording.number,
        signed=wording.signed,
        probability=words.probability,
        interval=words.interval,
        method=words.method_words,
        addon=words.addon_words,
        name=words.name_words,
        breakable=_breakable,
        unbroken=_unbroken,
        regime=words.regime_words,
    )
    return templates


def _final(value: Any) -> Any:
    """Return what a template puts out, before it is escaped: nothing invisible, a dash for what is unknown."""
    if value is None:
        return words.MISSING
    # Not of subclasses: Markup is already HTML.
    return visible(value) if type(value) is str else value


def _breakable(text: str) -> Markup:
    """Return a name that may break behind its signs, ``fixmatch + qw-oracle``, and nowhere within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[_+,:=@./-])", visible(text)))


def _unbroken(text: str) -> Markup:
    """Return a sentence in which no line ends between a number and its unit."""
    return Markup(re.sub(r"(?<=\d) (?=[%\w])", "&nbsp;", str(escape(visible(text)))))


def _pages_by_name(section: Section) -> dict[ArmName, list[tuple[Contrast, str]]]:
    """Return the contrasts that each cell is a side of, with their pages."""
    pages: dict[ArmName, list[tuple[Contrast, str]]] = {}
    for contrast in section.contrasts:
        page = contrast_slug(section.setting, contrast)
        for name in dict.fromkeys((contrast.name, contrast.reference)):
            pages.setdefault(name, []).append((contrast, page))
    return pages


def _seed_means(scores: Scores | None) -> dict[int, float]:
    """Return the average of each seed's run over test groups."""
    return {} if scores is None else dict(zip(scores.seeds, scores.table.mean(axis=0).tolist(), strict=True))


def _computed(record: Record) -> dict[str, Any]:
    """Return how a run was computed, what it took (seconds, MiB), and its near copies of training images by part."""
    return {
        **record.model_dump(include={"steps", "precision", "device", "threads"}),
        "seconds": record.times.model_dump(),
        "peak memory, MiB": record.peak_memory_mib,
        **{f"near copies in {part}": len(ids) for part, ids in (record.near_copies or {}).items() if ids},
    }


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as pairs, ``protocol.train.steps`` and ``200``."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
