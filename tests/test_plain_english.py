"""What a reader can take in: sentences of at most three numbers, and a README that fits on a few screens."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md"),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "results" not in page.relative_to(ROOT).parts),
]
MOST = 3
# Not read aloud as a sentence: code, comments (quoted tables have their places there), targets of links, API blocks.
BLOCKS = re.compile(r"^ *```.*?^ *```|<!--.*?-->", re.MULTILINE | re.DOTALL)
APART = re.compile(r"^\s*(?:\||#|:::)")
BEGINS = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
ABBREVIATED = re.compile(r"\b(?:al|vs|e\.g|i\.e|[A-Z]|Math|Sci)\.$")
# A year, an arXiv id, "3D", an interval (a part of its estimate) and its level are no numbers of their own.
ASIDE = re.compile(
    r"\b(?:19|20)\d\d\b(?!\.\d)|\b\d{4}\.\d{5}\b|\b\dD\b"
    r"|\[[-+]?[\d.,]+, [-+]?[\d.,]+\]|\b\d+ % (?:confidence )?intervals?\b"
)
# Digits of a name (HD95, n28, ResNet-34, SHA-256) hang on its letters.
NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z]-)\d[\d,.]*(?:e-?\d+)?")


def blocks(text: str) -> Iterator[str]:
    """Paragraphs and list items, each in one line; no tables, headings or code."""
    lines: list[str] = []
    for line in [*BLOCKS.sub("\n", text).splitlines(), ""]:
        ends = not line.strip() or APART.match(line)
        if (ends or BEGINS.match(line)) and lines:
            yield " ".join(lines)
            lines = []
        if not ends:
            lines.append(BEGINS.sub("", line).strip())


def sentences(block: str) -> Iterator[str]:
    block = re.sub(r"`[^`]*`", "CODE", block)
    block = re.sub(r"\]\([^)\s]*\)", "]", block)
    begin = 0
    for stop in re.finditer(r"[.!?][)\"*]*\s+", block):
        if not ABBREVIATED.search(block[begin : stop.start() + 1]):
            yield block[begin : stop.end()].strip()
            begin = stop.end()
    yield block[begin:]


def overfull(text: str) -> list[str]:
    """Return the sentences with more numbers than a listener keeps."""
    return [
        sentence
        for block in blocks(text)
        for sentence in sentences(block)
        if len(NUMBER.findall(ASIDE.sub("", sentence))) > MOST
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "It took 5 s, 6 s, 7 s and 8 s.",
        "Dice is 0.5 (0.4 before), with 3 seeds\nand 1,000 steps.",
        "g gains 0.71; the others gain 0.29, 1.12 and 0.38.",
        "[Four](a.md) of them: 1e-3, -2, 3.5 and 7 %.",
        "It gains 0.5 [0.1, 0.9], of 2, 3 and 4 seeds.",
    ],
)
def test_a_sentence_of_four_numbers_is_found(sentence: str) -> None:
    (found,) = overfull(f"# Page 1\n\n- Before it 1, 2, 3. {sentence} After 4, 5, 6.\n")
    assert found[-9:] == " ".join(sentence.split())[-9:]


@pytest.mark.parametrize(
    "text",
    [
        "Three 1, 2, 3. And three more 4, 5, 6! Of Yu et al. 7, 8 and 9.",
        "HD95, PH2, n28, p10, 3D of arXiv 2606.01753 (2026), ISIC 2017, ResNet-34, SHA-256: 1, 2, 3.",
        "It gains 0.57 [-0.91, 2.04], 0.03 [-1.54, 1.60] and 0.28 [-0.33, 0.90] (95 % intervals).",
        "`1 2 3 4` and [one](1/2/3/4.md): 1, 2, 3.",
        "```\n1 2 3 4\n```\n| 1 | 2 | 3 | 4 |\n# 1 2 3 4\n<!-- table: rows 1, 2, 3, 4 -->",
        "1. One, 1 and 2\n2. Two, 3 and 4\n- 5 and 6",
    ],
)
def test_what_is_no_number_of_a_sentence_does_not_count(text: str) -> None:
    assert overfull(text) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_has_more_than_three_numbers(document: Path) -> None:
    assert overfull(document.read_text(encoding="utf-8")) == []


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert [line for line in text.splitlines() if len(line) > 120] == []
