"""What ``qgbench methods`` and ``qgbench archs`` print: all names, one a line, or all about one of them."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table
from qgbench.base.errors import UserError, in_one_line
from qgbench.plugins.registry import Kind, Known, PluginImportError, catalogue, load, resolve
from qgbench.spec.method import Declared, declared
from qgbench.spec.protocol import load_protocol
from qgbench.spec.settings import allowed

if TYPE_CHECKING:
    from qgbench.archs.registry import Arch

_ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})")


def print_methods(console: Console, plugins: Iterable[str] = ()) -> None:
    """Print every method, one a line: name, what it is, source, number of networks, needs.

    One that cannot be imported has a line that says why.

    Raises
    ------
    UserError
        Several sources have one name; raised when all has been printed.
    """
    legend = "needs: t averaged teacher, p makes pseudo-labels, f features of its networks"
    _print_all("method", declared, ("nets", "needs"), _method_row, plugins, console, legend)


def print_archs(console: Console, plugins: Iterable[str] = ()) -> None:
    """Print every architecture, one a line: name, what it is, source, encoder. As `print_methods` for the rest."""
    legend = "batch: least number of images in a training step"
    _print_all("arch", partial(load, "arch"), ("encoder", "batch"), _arch_row, plugins, console, legend)


def print_method(name: str, console: Console, plugins: Iterable[str] = ()) -> None:
    """Print all about one method: where it is from, what it needs, its docstring, its settings.

    Raises
    ------
    UserError
        As `qgbench.plugins.registry.resolve` and `qgbench.plugins.registry.load`.
    """
    reference = resolve("method", name, plugins)
    kind = declared(reference)
    settings = kind.Settings()
    _print_head(name, reference, kind, console)
    facts = ["trains 1 network" if kind.networks == 1 else f"trains {kind.networks} networks"]
    facts += ["keeps an averaged teacher"] if kind.keeps_teacher(settings) else []
    facts += ["makes pseudo-labels" if kind.pseudo_labels else "makes no pseudo-labels (--qg means QAR)"]
    facts += ["needs features of its networks"] if kind.needs_features else []
    console.print(f"By default it {', '.join(facts)}.\n", highlight=False)
    if deviations(kind):
        shared = "".join(f"- {text}\n" for text in deviations(Declared))
        console.print(f"Deviations that all methods share:\n\n{shared}", markup=False, highlight=False)
    table = Table("setting", "default", "allowed", "meaning", title="--set method.SETTING=VALUE", title_justify="left")
    for setting, field in type(settings).model_fields.items():
        values = (setting, str(getattr(settings, setting)), allowed(field), field.description or "")
        table.add_row(*(Text(value) for value in values))
    print_table(table, console)


def deviations(code: Any) -> list[str]:
    """Return what a method does otherwise than its authors: the bullets of its docstring's section Deviations.

    Each bullet is one line of text; there are none where the section is missing.
    """
    section = _text(code).partition("\nDeviations\n----------\n")[2].partition("\n\n")[0]
    return [" ".join(bullet.split()) for bullet in re.split(r"^- ", section, flags=re.MULTILINE)[1:]]


def print_arch(name: str, console: Console, plugins: Iterable[str] = ()) -> None:
    """Print all about one architecture: where it is from, its description and its builder's docstring, its properties.

    Raises
    ------
    UserError
        As `qgbench.plugins.registry.resolve` and `qgbench.plugins.registry.load`.
    """
    reference = resolve("arch", name, plugins)
    arch = load("arch", reference)
    _print_head(name, reference, arch.builder, console)
    table = Table(show_header=False)
    for key, value in (
        ("what it is", arch.description),
        ("source", arch.source),
        ("encoder", f"{arch.own_encoder} unless --encoder says otherwise" if arch.own_encoder else "any (--encoder)"),
        ("uses of decoder_channels", arch.decoder),
        ("strides of its features", ", ".join(map(str, arch.strides)) or "it gives no features"),
        ("side of the images", arch.sizes),
        ("least batch in training", str(arch.min_batch)),
        ("parameters", _parameters(reference, arch)),
    ):
        table.add_row(Text(key), Text(value))
    console.print(table)


def _print_head(name: str, reference: str, code: Any, console: Console) -> None:
    """Print the name, the class or function and where it is defined, and its docstring."""
    file = re.fullmatch(r"(.*\.py)(:\w+)?", reference)
    console.print(Text.assemble((name, "bold"), f"  ({code.__qualname__} in {file[1] if file else code.__module__})\n"))
    console.print(f"{_reflowed(_text(code))}\n", markup=False, highlight=False, emoji=False)


def _print_all(
    kind: Kind,
    read: Callable[[str], Any],
    columns: tuple[str, ...],
    row: Callable[[Any], tuple[str, ...]],
    plugins: Iterable[str],
    console: Console,
    legend: str = "",
) -> None:
    known = catalogue(kind, plugins)
    count = Counter(entry.name for entry in known.entries)
    rows: dict[str, list[tuple[str, ...]]] = {}
    failures = {f"plug-in {where}": [_why(where, failure)] for where, failure in known.broken.items()}
    for entry in known.entries:
        if count[entry.name] > 1:
            continue
        try:
            described = row(read(entry.reference))
        except Exception as error:  # whatever somebody else's code raises must not hide the others
            failures.setdefault(_group(entry), []).append(_why(entry.name, error))
        else:
            rows.setdefault(_group(entry), []).append((entry.name, *described))
    width = max(len(name) for name in count)
    for group in dict.fromkeys([*rows, *failures]):
        console.print(Text(group, "bold"))
        table = Table(box=None, padding=(0, 1, 0, 0), expand=console.is_terminal, header_style="dim")
        table.add_column(kind, min_width=width)
        table.add_column("what it is", ratio=1, no_wrap=True, overflow="ellipsis")
        for column in ("arXiv/source", *columns):
            most = 12 if console.is_terminal and column == "arXiv/source" else None
            table.add_column(column, max_width=most, no_wrap=True, overflow="ellipsis")
        for cells in rows.get(group, []):
            table.add_row(*(Text(cell) for cell in cells))
        if group in rows:
            print_table(table, console)
        for line in failures.get(group, []):
            console.print(Text(line, "red"), soft_wrap=True)
        console.print()
    console.print(Text(f"{legend}\nsettings and full text: qgbench {kind}s NAME".strip(), "dim"))
    if clashes := known.clashes():
        raise UserError("\n".join(str(clash) for clash in clashes))


def _group(entry: Known) -> str:
    """Return where an entry comes from, without the object that an entry point names."""
    return entry.origin.partition(" (")[0]


def _why(name: str, error: Exception) -> str:
    """Return one line; the traceback is shown when the name itself is asked for."""
    cause = error.__cause__ if isinstance(error, PluginImportError) else error
    return f"{name}: cannot be used: {in_one_line(cause or error)}"


def _method_row(kind: type[Declared]) -> tuple[str, ...]:
    text = _text(kind)
    needs = (kind.keeps_teacher(kind.Settings()), kind.pseudo_labels, kind.needs_features)
    letters = "".join(letter if needed else "-" for letter, needed in zip("tpf", needs, strict=True))
    return _first_paragraph(text), _source(text), str(kind.networks), letters


def _arch_row(arch: "Arch") -> tuple[str, ...]:
    return (
        arch.description,
        _source(f"Source: {arch.source}"),
        "own" if arch.own_encoder else "any",
        str(arch.min_batch),
    )


def _parameters(reference: str, arch: "Arch") -> str:
    """Return in words how many parameters the paper's protocol would train, and of how many if some are frozen."""
    from qgbench.archs.build import build_network

    paper = load_protocol("paper")
    encoder = arch.own_encoder or paper.encoder
    try:
        network = build_network(reference, encoder, "none", paper.decoder_channels, paper.size)
    except UserError as error:
        return str(error)
    whole = sum(p.numel() for p in network.parameters()) / 1e6
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
    of = f", trained, of {whole:.2f} million" if trained < whole else ""
    return f"{trained:.2f} million{of} ({encoder}, protocol paper)"


def _text(code: Any) -> str:
    """Return the docstring of a class or function: its own, not its parent's."""
    return inspect.cleandoc(code.__doc__ or "(it has no docstring)")


def _reflowed(text: str) -> str:
    """Return the text with each paragraph of prose, and each bullet, in one line, which the terminal breaks."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if re.search(r"^- ", paragraph, re.MULTILINE):
            paragraphs.append(re.sub(r"\n +", " ", paragraph))
        elif re.search(r"^(\s|---)", paragraph, re.MULTILINE):
            paragraphs.append(paragraph)
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _source(text: str) -> str:
    """Return the source that a text gives: the arXiv number after 'Source:', else the words there up to a clause."""
    _, named, after = text.partition("Source:")
    words = re.split(r"[;:(]", " ".join(after.split()))[0] if named else text
    found = _ARXIV.search(words)
    return found[1] if found else words.strip(" .") if named else "-"
