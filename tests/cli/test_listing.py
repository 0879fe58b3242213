"""`qgbench methods` and `qgbench archs`: all names, each on a line of 80 columns, and everything about one."""

import ast
import io
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Gt
from pydantic import Field
from rich.console import Console

from qgbench.archs.registry import ARCHS
from qgbench.base.errors import UserError
from qgbench.cli.listing import deviations, print_arch, print_archs, print_method, print_methods
from qgbench.plugins.registry import PluginImportError, load, method_names
from qgbench.spec.method import Declared
from qgbench.spec.settings import Settings, allowed

PLUG_IN = """
from typing import Literal
from pydantic import Field
from qgbench.methods import Method, MethodSettings


class Twins(Method):
    \"\"\"Two networks [bold] that agree.

    Source: A. Nobody, arXiv 2999.01234; settings of arXiv 1111.11111.
    \"\"\"

    networks = 2
    needs_features = True

    class Settings(MethodSettings):
        order: Literal["up", "down"] = Field("up", description="which comes first [red]")

    def uses_teacher(self):
        return self.settings.order == "up"

    def __init__(self, build, settings):
        super().__init__(build, settings)
        raise AssertionError("networks are not built to list a method")


class Bare(Method):
    pseudo_labels = False
"""


class Example(Settings):
    share: float = Field(0.5, ge=0, le=1)
    rate: float = Field(1.0, gt=0)
    start: float = Field(0.0, ge=0, lt=1)
    count: int = Field(3, ge=1)
    below: Annotated[float, Gt(1.5)] = 2.0
    free: float = 0.0
    flag: bool = True
    order: Literal["up", "down", "both"] = "up"
    only: Literal["one"] = "one"
    limit: int | None = None
    widths: tuple[int, ...] = (1, 2)
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.5,)
    label: str = ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("share", "a number >= 0 and <= 1"),
        ("rate", "a number > 0"),
        ("start", "a number >= 0 and < 1"),
        ("count", "an integer >= 1"),
        ("below", "a number > 1.5"),
        ("free", "a number"),
        ("flag", "true or false"),
        ("order", "up, down or both"),
        ("only", "one"),
        ("limit", "an integer or nothing"),
        ("widths", "a list of: an integer"),
        ("shares", "a list of: a number >= 0 and <= 1"),
        ("label", "text"),
    ],
)
def test_what_a_setting_takes_is_said_in_words(name: str, expected: str) -> None:
    assert allowed(Example.model_fields[name]) == expected


@pytest.fixture
def console() -> Console:
    """A terminal of 80 columns, without colours."""
    return Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)


def lines_of(console: Console) -> list[str]:
    """What has been printed; no line may be wider than the page."""
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    return lines


def line_of(name: str, lines: list[str]) -> str:
    """The one line that begins with a word."""
    (line,) = (line for line in lines if line.split()[:1] == [name])
    return line


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("lab.py").write_text(PLUG_IN)
    return "lab.py"


def test_every_method_has_a_line(console: Console) -> None:
    print_methods(console)
    lines = lines_of(console)
    for name in method_names():
        kind = load("method", name)
        *_, networks, needs = line_of(name, lines).split()
        assert networks == str(kind.networks)
        assert (needs[1] == "p") == kind.pseudo_labels
        assert (needs[2] == "f") == kind.needs_features
    assert line_of("supervised", lines).split()[-3:] == ["2606.01753", "1", "---"]
    assert line_of("fixmatch", lines).split()[-3:] == ["2001.07685", "1", "-p-"]
    assert line_of("mean_teacher", lines).split()[-3:] == ["1703.01780", "1", "tp-"]
    assert "Hard labels of the weak" in line_of("fixmatch", lines)


def test_nothing_of_a_line_is_cut_where_it_goes_into_a_pipe() -> None:
    console = Console(file=io.StringIO(), width=10_000)
    print_methods(console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "…" not in console.file.getvalue()
    assert "where the student is" in line_of("fixmatch", lines)
    assert max(map(len, lines)) < 1000


def test_plug_ins_are_listed_apart_and_without_networks(plug_in: str, console: Console) -> None:
    print_methods(console, [plug_in])
    lines = lines_of(console)
    own = lines[lines.index("plug-in lab.py") :]
    assert line_of("Twins", own).split()[-3:] == ["2999.01234", "2", "tpf"]
    assert "Two networks [bold] that" in line_of("Twins", own)
    assert line_of("Bare", own).split()[-3:] == ["-", "1", "---"]
    assert "fixmatch" not in "".join(own)


def test_what_cannot_be_used_has_one_line_and_hides_nothing(plug_in: str, console: Console) -> None:
    Path("broken.py").write_text("import surely_not_installed\n")
    # A setting without a default.
    Path("odd.py").write_text(PLUG_IN.replace('Field("up",', "Field(").replace("Twins", "Odd").replace("Bare", "Even"))
    print_methods(console, ["broken.py", "odd.py", plug_in])
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert line_of("Odd:", lines).startswith("Odd: cannot be used: ValidationError: ")
    assert line_of("broken.py:", lines) == (
        "broken.py: cannot be used: ModuleNotFoundError: No module named 'surely_not_installed'"
    )
    assert "Traceback" not in "".join(lines)
    assert {"fixmatch", "Twins", "Bare", "Even"} <= {word for line in lines for word in line.split()[:1]}
    with pytest.raises(PluginImportError, match=r'File ".*broken\.py", line 1'):
        print_method("broken.py", console)


def test_a_clash_is_an_error_after_the_list(plug_in: str, console: Console) -> None:
    Path("den.py").write_text(PLUG_IN)
    with pytest.raises(UserError) as caught:
        print_methods(console, [plug_in, "den.py"])
    assert str(caught.value).count("of plug-in lab.py and of plug-in den.py") == 2
    lines = lines_of(console)
    assert line_of("fixmatch", lines)
    assert [line for line in lines if line.startswith(("Twins", "Bare"))] == []


def test_all_about_a_method(plug_in: str, console: Console) -> None:
    print_method("Twins", console, [plug_in])
    text = "\n".join(lines_of(console))
    assert text.startswith("Twins  (Twins in lab.py)\n")
    assert (
        "Two networks [bold] that agree.\n\nSource: A. Nobody, arXiv 2999.01234; settings of arXiv 1111.11111." in text
    )
    assert "trains 2 networks, keeps an averaged teacher, makes pseudo-labels, needs features" in " ".join(text.split())
    rows = {
        cells[1]: cells[2:5] for line in text.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 4
    }
    assert rows["order"] == ["up", "up or down", "which comes first [red]"]
    assert rows["lambda_u"] == ["0.25", "a number >= 0", "weight of the unlabelled"]


@pytest.mark.parametrize("name", method_names())
def test_the_whole_docstring_and_every_setting_are_shown(name: str, console: Console) -> None:
    print_method(name, console)
    lines = lines_of(console)
    text = " ".join(" ".join(lines).split())
    kind = load("method", name)
    tree = ast.parse(Path(f"{Path(__file__).parents[2]}/baselines/{name}.py").read_text())
    (node,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
    assert " ".join((ast.get_docstring(node) or "missing").split()) in text
    for setting, field in kind.Settings.model_fields.items():
        (row,) = (line for line in lines if line.startswith("│") and line.split("│")[1].strip() == setting)
        assert row.split("│")[2].strip() == str(field.default)


def test_deviations_are_the_bullets_of_their_section() -> None:
    class Listed:
        """One line.

        - A bullet of another section, about
          nothing.

        Deviations
        ----------
        - Theirs is red; ours is
          blue, because - as they say - it is.
        - None else.

        Notes
        -----
        - No deviation.
        """

    class Plain:
        """A word about Deviations."""

    assert deviations(Listed) == ["Theirs is red; ours is blue, because - as they say - it is.", "None else."]
    assert deviations(Plain) == []


@pytest.mark.parametrize("name", method_names())
def test_every_method_that_ships_says_how_it_deviates(name: str) -> None:
    texts = deviations(load("method", name))
    assert texts
    assert not any("|" in text for text in texts)  # they become cells of a table


def test_a_method_is_printed_with_the_deviations_that_all_methods_share(console: Console) -> None:
    print_method("supervised", console)
    shown = " ".join(" ".join(lines_of(console)).split())
    assert "None known beside those that all methods share." in shown
    assert all(f"- {text}" in shown for text in deviations(Declared))
    assert sum("Dice adds 1 above and below" in text for text in deviations(Declared)) == 1


def test_every_architecture_has_a_line_and_a_page(console: Console) -> None:
    print_archs(console)
    lines = lines_of(console)
    for name, arch in ARCHS.items():
        *_, encoder, batch = line_of(name, lines).split()
        assert encoder == ("any" if arch.own_encoder is None else "own")
        assert batch == str(arch.min_batch)
    assert "1505.04597" in line_of("unet", lines)
    table = (Path(__file__).parents[2] / "docs" / "reference" / "archs.md").read_text(encoding="utf-8").splitlines()
    for name, arch in ARCHS.items():
        print_arch(name, console)
        shown = " ".join(" ".join(lines_of(console)).replace("│", " ").split())
        assert arch.description in shown
        assert " ".join((arch.builder.__doc__ or "").split()) in shown
        counted = " of ".join(re.findall(r"([\d.]+) million", shown.rpartition(" parameters ")[2]))
        assert [line.startswith(f"| {name} | {counted} |") for line in table].count(True) == 1, counted
