"""The page of scored masks: what it shows, that names cannot break it, and how it behaves in a browser."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qgbench.data.cards import load_card
from qgbench.data.source import Source
from qgbench.report.page.gallery import Shot, write_gallery

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "abc\u202egnp", "=1+1", "' onfocus='alert(3)"]


class Drawn(Source):
    """Grey pictures with a square as a mask, of any names."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.card = load_card("phantom")
        self.ids = sorted(ids)
        self.groups = self.ids
        self.labelled = True

    def image(self, id: str) -> NDArray[np.uint8]:
        return np.full((30, 60, 3), 120, np.uint8)

    def mask(self, id: str) -> NDArray[Any]:
        mask = np.zeros((30, 60), bool)
        mask[10:20, 20:40] = True
        return mask

    def content_key(self) -> str:
        raise NotImplementedError  # a page asks for images and masks alone


def written(folder: Path, names: Sequence[str], **of_shot: Any) -> Path:
    shots = [
        Shot(name, name, round(0.1 + 0.8 * place / len(names), 3), place % 3 == 0, **of_shot)
        for place, name in enumerate(names)
    ]
    return write_gallery(shots, Drawn(names), ("lesion",), folder)


def test_thumbnails_show_the_outline_and_those_of_an_earlier_page_go(tmp_path: Path) -> None:
    written(tmp_path, ["a", "b", "c"])
    (tmp_path / "thumbnails" / "mine.jpg").write_bytes(b"")
    written(tmp_path, ["a", "b"])
    assert sorted(file.name for file in (tmp_path / "thumbnails").iterdir()) == ["000000.jpg", "000001.jpg", "mine.jpg"]
    pixels = np.asarray(Image.open(tmp_path / "thumbnails/000000.jpg")).astype(int)
    assert pixels.shape == (128, 256, 3)
    yellow = pixels[..., 0] - pixels[..., 2] > 90
    rows, columns = np.nonzero(yellow)
    scale = 128 / 30
    assert rows.min() == pytest.approx(10 * scale, abs=2)
    assert columns.max() == pytest.approx(40 * scale, abs=3)


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    page = written(tmp_path, HOSTILE, note="worst slice 3 of 4: 0.20").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert page.count("<script") == 1
    assert page.count("<li ") == len(HOSTILE)


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    """A tab in which nothing is asked of a network and nothing fails."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, faults = chromium.new_page(), []
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(f"request: {r.url}"))
        page.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
        yield page
        chromium.close()
        assert faults == []


def shown(tab: Any) -> list[str]:
    return tab.eval_on_selector_all(".shots li:not([hidden]) bdi", "names => names.map(name => name.textContent)")


def test_masks_are_searched_filtered_and_ordered(tmp_path: Path, tab: Any) -> None:
    names = [f"case {letter}" for letter in "fbdace"]  # qualities rise in this order
    tab.set_viewport_size({"width": 1200, "height": 800})
    tab.goto(written(tmp_path, names).as_uri())
    assert shown(tab) == names
    assert tab.inner_text(".shown") == "6 images"
    tab.select_option("select[name=order]", "name")
    assert shown(tab) == sorted(names)
    tab.select_option("select[name=order]", "highest")
    assert shown(tab) == names[::-1]
    tab.fill("input[name=low]", "0.3")
    tab.fill("input[name=high]", "0.7")
    assert shown(tab) == ["case c", "case a", "case d"]
    assert tab.inner_text(".shown") == "3 of 6 images"
    tab.select_option("select[name=unlike]", "yes")
    assert shown(tab) == ["case a"]
    tab.click("button[type=reset]")
    expect_shown(tab, 6)
    assert shown(tab) == names
    tab.fill("input[name=q]", "B case")
    assert shown(tab) == ["case b"]


def test_it_is_used_by_keyboard_on_a_phone_in_the_dark(tmp_path: Path, tab: Any) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.emulate_media(color_scheme="dark")
    tab.goto(written(tmp_path, ["a" * 90, "b", "c"], note="worst slice 3 of 4: 0.20").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.emulate_media(color_scheme="light")
    assert dark != tab.evaluate("getComputedStyle(document.body).backgroundColor")
    reached = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        element = "document.activeElement"
        reached.append(tab.evaluate(f"{element}.name || {element}.type || {element}.getAttribute('href')"))
    for each in ("q", "low", "high", "unlike", "order", "reset", "thumbnails/000000.jpg", "thumbnails/000002.jpg"):
        assert each in reached


def expect_shown(tab: Any, count: int) -> None:
    """Wait until so many are shown; the page's own rules forbid that a test evaluates text in it."""
    from playwright.sync_api import expect

    expect(tab.locator(".shots li:not([hidden])")).to_have_count(count)


def test_a_thousand_masks_are_shown_by_parts(tmp_path: Path, tab: Any) -> None:
    names = [f"{place:05}" for place in range(1000)]
    tab.set_viewport_size({"width": 1200, "height": 800})
    tab.goto(written(tmp_path, names).as_uri())
    assert tab.inner_text(".shown") == "1000 images, the first 400 shown"
    assert len(shown(tab)) == 400
    loaded = tab.eval_on_selector_all(".shots img", "all => all.filter(img => img.complete && img.naturalWidth).length")
    assert loaded < 400
    tab.fill("input[name=q]", "99")
    assert shown(tab) == [name for name in names if "99" in name]
    tab.click("button[type=reset]")
    expect_shown(tab, 400)
    tab.click("button.more")
    assert len(shown(tab)) == 1000
