"""Files as other programs write them: the same content, or a refusal that says where and what to do."""

import csv
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgbench.base.errors import UserError
from qgbench.base.text import parse_toml, read_table, read_text, refuse_empty

COLUMNS = ("stem", "group")
PLAIN = "stem,group\na,1\nb,é\n"


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        "sep=,\n" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.removesuffix("\n"),
        "\n,\n" + PLAIN.replace("a,1\n", "a,1\n\n , \n") + ",,\n",
        PLAIN.replace("\n", ",\n"),
        "stem,group\na,1,\nb,é,,\n",
        " stem , group\n a,\t1 \nb ,  é\n",
        'Stem,"GROUP"\n"a", "1"\n" b",é\n',
        PLAIN.replace("é", "e\u0301"),
    ],
)
def test_the_same_table_by_whatever_program(tmp_path: Path, text: str) -> None:
    table = read_table(written(tmp_path, text), COLUMNS)
    assert table[list(COLUMNS)].to_numpy().tolist() == [["a", "1"], ["b", "é"]]


def test_cells_are_text_short_lines_are_filled_and_other_columns_are_left_as_they_are(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, 'Note,Note,stem,group\nx,y,"a,b","say ""7"""\n,,NA\n'), COLUMNS)
    assert table[list(COLUMNS)].to_numpy().tolist() == [["a,b", 'say "7"'], ["NA", ""]]
    assert list(table.columns) == ["Note", "Note", "stem", "group"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.csv cannot be read as CSV: it is empty."),
        ("\n , \n", "t.csv cannot be read as CSV: it is empty."),
        ("stem,group,Group\na,1,2\n", "t.csv has 2 columns 'group'; keep one of them."),
        ("stem,group\na,1\nb,Doe, Jane\n", "line 3 has 3 cells for 2 columns. A cell that holds a comma is put in"),
        ('stem,group\na,1\nb,"2\n', "t.csv cannot be read as CSV: unexpected end of data (line 3)."),
    ],
)
def test_what_is_no_table_is_refused_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_table(written(tmp_path, text), COLUMNS)
    assert said in str(caught.value)


def test_an_empty_cell_is_refused_by_its_line_in_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "stem,group\n\na,1\n , 2\n")
    with pytest.raises(UserError, match=r"t\.csv: the column stem is empty in line 4; fill the cell or remove"):
        refuse_empty(read_table(file, COLUMNS), "stem", file)


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 3), ("utf-16", 1), ("utf-16-le", 1), ("utf-16-be", 1)])
def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path, encoding: str, line: int) -> None:
    content = (PLAIN if encoding == "latin-1" else PLAIN.replace("é", "2")).encode(encoding)
    with pytest.raises(UserError, match=rf"t\.csv is not UTF-8 \(line {line}\); save it as UTF-8 in .*'CSV UTF-8'"):
        read_table(written(tmp_path, content), COLUMNS)
    with pytest.raises(UserError, match=rf"t\.toml is not UTF-8 \(line {line}\); .* in the program that wrote it\.$"):
        read_text(written(tmp_path, content, "t.toml"))


def test_a_fault_of_toml_is_named_with_file_and_line() -> None:
    with pytest.raises(UserError, match=r"t\.toml is not valid TOML: .*line 2, column 5"):
        parse_toml("a = 1\nb = \n", Path("t.toml"))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=1, max_size=4))
def test_any_text_survives_being_written_as_csv(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    lines = StringIO()
    csv.writer(lines, lineterminator="\n").writerows([COLUMNS, *(("id", cell) for cell in cells)])
    table = read_table(written(tmp_path_factory.mktemp("csv"), lines.getvalue()), COLUMNS)
    assert table["group"].tolist() == [unicodedata.normalize("NFC", cell).strip() for cell in cells]
