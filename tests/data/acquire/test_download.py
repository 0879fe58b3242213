import gzip
import hashlib
import logging
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, TypeVar

import pooch
import pytest
from pydantic import ValidationError

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.acquire import download
from qgbench.data.acquire.download import fetch
from qgbench.data.cards import Card
from qgbench.data.links import Download

T = TypeVar("T")
WHOLE = os.urandom(3_000_000)
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>"


class Owner(ThreadingHTTPServer):
    """A rights holder's server with one file, and whatever may go wrong with it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = WHOLE
        self.tag: str | None = '"first"'
        self.changed_at: str | None = None
        self.type = "application/zip"
        self.status = [200]  # of the requests in turn; the last one stays
        self.cuts: list[int] = []  # bytes after which the first answers are cut off
        self.encoding: str | None = None
        self.ranges = True
        self.shift = 0  # bytes by which it misses the part it is asked for
        self.most = len(WHOLE)  # bytes of a part that it sends at once
        self.judges = True  # If-Range
        self.states_length = True
        self.delay = 0.0
        self.requests: list[dict[str, str]] = []
        self.sent: list[int] = []  # bytes of the body of each answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"

    def card(self, sha256: str | None = hashlib.sha256(WHOLE).hexdigest()) -> Card:
        return card(Download(url=self.url, file="set.zip", sha256=sha256))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    server: Owner
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server
        owner.requests.append(dict(self.headers))
        turn = len(owner.requests) - 1
        status = owner.status[min(turn, len(owner.status) - 1)]
        start, body = 0, owner.content
        asked = self.headers.get("Range")
        is_same = not owner.judges or self.headers.get("If-Range") in (owner.tag, owner.changed_at)
        if asked and owner.ranges and is_same and status == 200:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + owner.shift
            status = 206 if start < len(body) else 416
        end = min(start + owner.most, len(body)) if status == 206 else len(body)
        body = body[start:end] if status in (200, 206) else b"no such thing"
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(owner.content)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(owner.content)}")
        stated = {"ETag": owner.tag, "Last-Modified": owner.changed_at, "Content-Type": owner.type}
        for name, value in (stated | {"Content-Encoding": owner.encoding}).items():
            if value:
                self.send_header(name, value)
        if owner.states_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        time.sleep(owner.delay)
        body = body[: owner.cuts.pop(0)] if owner.cuts else body
        owner.sent.append(len(body))
        self.wfile.write(body)
        self.close_connection = True


def card(*links: Download) -> Card:
    return Card(
        name="polyps",
        title="Some polyps",
        kind="labelled",
        domain="colon",
        modality="colonoscopy",
        terms="research only",
        citation="nobody",
        homepage="https://owner.example/polyps",
        groups="none known",
        obtain="Fill in the form and wait for the letter.",
        downloads=links,
    )


@pytest.fixture
def owner() -> Iterator[Owner]:
    server = Owner()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_WAITS", (0.01, 0.01, 0.01))


def left(folder: Path) -> list[str]:
    """What is in a folder, the locks aside."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def by_range(request: dict[str, str]) -> int | None:
    return int(request["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in request else None


# Whole downloads


def test_whole_download(owner: Owner, tmp_path: Path) -> None:
    assert fetch(owner.card(), tmp_path / "new/raw") == [tmp_path / "new/raw/set.zip"]
    assert (tmp_path / "new/raw/set.zip").read_bytes() == WHOLE
    assert left(tmp_path / "new/raw") == ["set.zip"]
    assert len(owner.requests) == 1
    assert "Range" not in owner.requests[0]


def test_several_files_in_the_order_of_the_card(owner: Owner, tmp_path: Path) -> None:
    names = ["train.zip", "a.csv"]
    assert fetch(card(*(Download(url=owner.url, file=name, sha256=None) for name in names)), tmp_path) == [
        tmp_path / name for name in names
    ]
    assert (tmp_path / "a.csv").read_bytes() == WHOLE


def test_file_that_is_there_is_not_fetched_again(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(WHOLE)
    assert fetch(owner.card(hashlib.sha256(WHOLE).hexdigest().upper()), tmp_path) == [tmp_path / "set.zip"]
    assert owner.requests == []


def test_file_that_is_there_damaged_is_fetched_again(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(WHOLE[:-1])
    fetch(owner.card(), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == WHOLE


def test_what_lies_packed_on_the_server_stays_packed(owner: Owner, tmp_path: Path) -> None:
    owner.content, owner.encoding = gzip.compress(WHOLE), "gzip"
    assert fetch(owner.card(None), tmp_path)[0].read_bytes() == owner.content
    assert owner.requests[0]["Accept-Encoding"] == "identity"


def test_server_that_does_not_say_how_much_it_sends(owner: Owner, tmp_path: Path) -> None:
    owner.states_length = False
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE


@pytest.mark.parametrize(("ranges", "second"), [(True, ("Fetching set.zip after 1 MiB", 1)), (False, None)])
def test_progress_in_mebibytes(owner: Owner, tmp_path: Path, ranges: bool, second: tuple[str, int] | None) -> None:
    begun, passed = [], []

    def track(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        begun.append((description, total))
        passed.append(unit)
        for item in items:
            passed.append(unit)
            yield item

    owner.cuts, owner.ranges = [2_000_000], ranges
    fetch(owner.card(), tmp_path, track)
    assert begun == [("Fetching set.zip", 3), second or ("Fetching set.zip", 3)]
    last = begun[-1][1]
    assert passed == ["MiB"] * (1 + 1 + 1 + last)


def test_terms_are_said(owner: Owner, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "qgbench")
    fetch(owner.card(), tmp_path)
    assert "Some polyps (https://owner.example/polyps): research only" in caplog.messages


def test_library_below_says_nothing_of_its_own(owner: Owner, tmp_path: Path) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    pooch.get_logger().addHandler(handler)
    try:
        pooch.get_logger().setLevel(logging.INFO)
        fetch(owner.card(), tmp_path)
    finally:
        pooch.get_logger().removeHandler(handler)
    assert said == []


@pytest.mark.parametrize("states_length", [True, False])
def test_empty_answer(owner: Owner, tmp_path: Path, states_length: bool) -> None:
    owner.content, owner.states_length = b"", states_length
    with pytest.raises(QGBenchError, match="the server sends nothing"):
        fetch(owner.card(None), tmp_path)
    assert left(tmp_path) == []


# Cut connections


def test_cut_connection_goes_on_where_it_was_cut(owner: Owner, tmp_path: Path) -> None:
    owner.cuts = [2_000_000]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    first, second = owner.requests
    start = by_range(second)
    assert "Range" not in first
    assert start is not None
    assert 2_000_000 - download._CHUNK <= start <= 2_000_000
    assert second["If-Range"] == '"first"'
    assert owner.sent == [2_000_000, len(WHOLE) - start]
    assert left(tmp_path) == ["set.zip"]


def test_next_call_goes_on(owner: Owner, tmp_path: Path) -> None:
    owner.cuts, owner.status = [2_000_000], [200, 503, 503, 503, 503, 200]
    with pytest.raises(QGBenchError, match=r"answers 503.*it goes on after the 1\.9 MiB that have arrived") as caught:
        fetch(owner.card(), tmp_path)
    assert not isinstance(caught.value, UserError)
    assert left(tmp_path) == [".set.zip.download"]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert owner.sent[-1] < 1_100_000
    assert left(tmp_path) == ["set.zip"]


def test_many_cuts_are_borne_while_each_attempt_brings_something(owner: Owner, tmp_path: Path) -> None:
    owner.cuts = [300_000] * 9
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert len(owner.requests) >= 10


def test_attempts_that_bring_nothing_end(owner: Owner, tmp_path: Path) -> None:
    owner.cuts = [0] * 50
    with pytest.raises(QGBenchError, match="give the same command again later"):
        fetch(owner.card(), tmp_path)
    assert len(owner.requests) == 4
    assert left(tmp_path) == []


def test_server_without_ranges_that_always_cuts(owner: Owner, tmp_path: Path) -> None:
    owner.ranges = False
    owner.cuts = [1_000_000, 2_000_000] * 25
    with pytest.raises(QGBenchError, match="give the same command again later"):
        fetch(owner.card(), tmp_path)
    assert len(owner.requests) == 6


def test_without_a_tag_the_date_tells(owner: Owner, tmp_path: Path) -> None:
    owner.tag, owner.changed_at = 'W/"weak"', "Wed, 01 Jan 2025 00:00:00 GMT"
    owner.cuts = [2_000_000]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert owner.requests[1]["If-Range"] == owner.changed_at
    assert sum(owner.sent) < len(WHOLE) + 2 * download._CHUNK


def test_server_that_does_not_tell_versions_apart_starts_anew(owner: Owner, tmp_path: Path) -> None:
    owner.tag = None
    owner.cuts = [2_000_000]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert by_range(owner.requests[1]) is None


def test_server_without_ranges_starts_anew(owner: Owner, tmp_path: Path) -> None:
    owner.ranges = False
    owner.cuts = [2_000_000]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert by_range(owner.requests[1]) is not None
    assert owner.sent == [2_000_000, len(WHOLE)]


def test_server_that_sends_the_rest_in_parts(owner: Owner, tmp_path: Path) -> None:
    owner.cuts, owner.most = [1_000_000], 900_000
    assert fetch(owner.card(None), tmp_path)[0].read_bytes() == WHOLE
    assert len(owner.requests) == 4


def test_server_that_sends_another_part_starts_anew(owner: Owner, tmp_path: Path) -> None:
    owner.cuts, owner.shift = [1_000_000], 7
    assert fetch(owner.card(None), tmp_path)[0].read_bytes() == WHOLE
    assert [by_range(request) is None for request in owner.requests] == [True, False, True]


def cut_then_fail(owner: Owner, folder: Path, sha256: str | None) -> None:
    owner.cuts, owner.status = [2_000_000], [200, 503]
    with pytest.raises(QGBenchError, match="503"):
        fetch(owner.card(sha256), folder)
    owner.status = [200]


@pytest.mark.parametrize("judges", [True, False])
@pytest.mark.parametrize("length", [3_000_000, 100_000, 2_500_000])
def test_file_that_changed_in_between_starts_anew(owner: Owner, tmp_path: Path, judges: bool, length: int) -> None:
    cut_then_fail(owner, tmp_path, None)
    owner.content, owner.tag, owner.judges = os.urandom(length), '"second"', judges
    assert fetch(owner.card(None), tmp_path)[0].read_bytes() == owner.content


def test_another_link_starts_anew(owner: Owner, tmp_path: Path) -> None:
    cut_then_fail(owner, tmp_path, None)
    owner.content = os.urandom(2_500_000)
    other = Download(url=f"{owner.url}?version=2", file="set.zip", sha256=None)
    assert fetch(card(other), tmp_path)[0].read_bytes() == owner.content


def test_part_that_is_the_whole_file(owner: Owner, tmp_path: Path) -> None:
    cut_then_fail(owner, tmp_path, None)
    (tmp_path / ".set.zip.download/.part").write_bytes(WHOLE)
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert owner.sent[-1] == len(b"no such thing")


def test_damaged_part_is_found_out_by_its_hash_and_forgotten(owner: Owner, tmp_path: Path) -> None:
    cut_then_fail(owner, tmp_path, None)
    with (tmp_path / ".set.zip.download/.part").open("r+b") as part:
        part.write(b"not what the owner sent")
    with pytest.raises(UserError, match="does not match"):
        fetch(owner.card(), tmp_path)
    assert left(tmp_path) == []
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE


def test_unavailable_then_fine(owner: Owner, tmp_path: Path) -> None:
    owner.status = [503, 429, 200]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert len(owner.requests) == 3


KILLED = """
import os, sys
from pathlib import Path
from qgbench.data.acquire.download import fetch
from tests.data.acquire.test_download import card
from qgbench.data.links import Download

def die(items, description, total, unit):
    for index, item in enumerate(items):
        if index == 1:
            os.kill(os.getpid(), 9)
        yield item

fetch(card(Download(url=sys.argv[1], file="set.zip", sha256=None)), Path(sys.argv[2]), die)
"""


def test_killed_process_leaves_a_part_that_goes_on(owner: Owner, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED, owner.url, str(tmp_path)], cwd=root)
    assert killed.returncode == -9
    assert left(tmp_path) == [".set.zip.download"]
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE
    assert (by_range(owner.requests[1]) or 0) > 1 << 20
    assert left(tmp_path) == ["set.zip"]


def test_interrupted_keeps_the_part(owner: Owner, tmp_path: Path) -> None:
    def interrupt(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        yield from (item for item, _ in zip(items, range(2), strict=False))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(owner.card(), tmp_path, interrupt)
    assert not (tmp_path / "set.zip").exists()
    fetch(owner.card(), tmp_path)
    assert (by_range(owner.requests[1]) or 0) > 1 << 20
    assert left(tmp_path) == ["set.zip"]


# What is not the file


@pytest.mark.parametrize("type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_page_instead_of_an_archive(owner: Owner, tmp_path: Path, type: str) -> None:
    owner.content, owner.type = PAGE, type
    with pytest.raises(UserError) as caught:
        fetch(owner.card(None), tmp_path)
    assert str(caught.value) == (
        f"{owner.url} now leads to a web page and not to set.zip. Get it by hand: Fill in the form and wait for the "
        "letter. Terms: research only. Homepage: https://owner.example/polyps Then: qgbench data prepare polyps "
        "--source FILE_OR_FOLDER"
    )
    assert left(tmp_path) == []


def test_what_is_stated_to_be_a_page_is_none_of_use(owner: Owner, tmp_path: Path) -> None:
    owner.type = "text/html"
    with pytest.raises(UserError, match="web page"):
        fetch(owner.card(), tmp_path)
    assert left(tmp_path) == []


def test_wrong_hash(owner: Owner, tmp_path: Path) -> None:
    expected = "0" * 64
    for attempt in (1, 2):
        with pytest.raises(UserError) as caught:
            fetch(owner.card(expected), tmp_path)
        assert expected in str(caught.value)
        assert hashlib.sha256(WHOLE).hexdigest() in str(caught.value)
        assert "https://owner.example/polyps and ask for a new card of polyps" in str(caught.value)
        assert left(tmp_path) == []
        assert by_range(owner.requests[-1]) is None
        assert len(owner.requests) == attempt


def test_hash_of_the_first_download_is_kept_and_compared(
    owner: Owner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "qgbench")
    fetch(owner.card(None), tmp_path)
    kept = tmp_path / "set.zip.sha256"
    assert kept.read_text() == f"{hashlib.sha256(WHOLE).hexdigest()}  set.zip\n"
    if (program := shutil.which("sha256sum")) is not None:
        subprocess.run([program, "--check", "--strict", kept.name], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert any("states no SHA-256" in message for message in caplog.messages)
    fetch(owner.card(None), tmp_path)
    assert len(owner.requests) == 1

    (tmp_path / "set.zip").unlink()
    owner.content, owner.tag = os.urandom(1000), '"second"'
    with pytest.raises(UserError, match=r"set\.zip\.sha256.*remove that note if you accept") as caught:
        fetch(owner.card(None), tmp_path)
    assert hashlib.sha256(owner.content).hexdigest() in str(caught.value)
    assert hashlib.sha256(WHOLE).hexdigest() in str(caught.value)
    assert left(tmp_path) == ["set.zip.sha256"]

    kept.unlink()
    assert fetch(owner.card(None), tmp_path)[0].read_bytes() == owner.content


def test_kept_hash_that_is_none(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "set.zip.sha256").write_text("oh\n")
    with pytest.raises(UserError, match=r"set\.zip\.sha256 does not begin with a SHA-256"):
        fetch(owner.card(None), tmp_path)
    (tmp_path / "set.zip.sha256").write_text(f"{'0' * 64}  set.zip\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"set\.zip\.sha256 is not UTF-8"):
        fetch(owner.card(None), tmp_path)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_link_that_leads_nowhere(owner: Owner, tmp_path: Path, status: int) -> None:
    owner.status = [status]
    with pytest.raises(UserError) as caught:
        fetch(owner.card(), tmp_path)
    for told in (owner.url, str(status), "https://owner.example/polyps", "qgbench data prepare polyps --source"):
        assert told in str(caught.value)
    assert len(owner.requests) == 1
    assert left(tmp_path) == []


def test_connection_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        link = Download(url=f"http://127.0.0.1:{taken.getsockname()[1]}/set.zip", file="set.zip", sha256=None)
        with pytest.raises(QGBenchError, match=r"127\.0\.0\.1 failed \(.*Connection refused\)\. Check the network"):
            fetch(card(link), tmp_path)
    assert left(tmp_path) == []


def test_no_name_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    link = Download(url="http://owner.example/set.zip", file="set.zip", sha256=None)
    with pytest.raises(QGBenchError, match=r"owner\.example failed \(.*name resolution\)\. Check the network"):
        fetch(card(link), tmp_path)


def test_silent_server(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT", (0.2, 0.2))
    owner.delay = 1.0
    with pytest.raises(QGBenchError, match="timed out"):
        fetch(owner.card(), tmp_path)


def test_data_set_without_links(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch(card(), tmp_path / "new")
    assert str(caught.value) == (
        "polyps is not fetched automatically: Fill in the form and wait for the letter. Terms: research only. "
        "Homepage: https://owner.example/polyps Then: qgbench data prepare polyps --source FILE_OR_FOLDER"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://owner.example/a.zip"},
        {"url": "file:///etc/passwd"},
        {"file": "../a.zip"},
        {"file": "a/b.zip"},
        {"file": ".lock"},
        {"file": "a\\b.zip"},
        {"sha256": "abc"},
        {"md5": "0" * 32},
    ],
)
def test_links_that_are_refused(fields: dict[str, str]) -> None:
    good = {"url": "https://owner.example/a.zip", "file": "a (1).zip", "sha256": "0" * 64}
    Download.model_validate(good)
    with pytest.raises(ValidationError):
        Download.model_validate(good | fields)


# Disk


def test_disk_that_is_too_small(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(QGBenchError, match=r"set\.zip needs 2\.9 MiB more and .* has 976\.6 KiB left"):
        fetch(owner.card(), tmp_path)
    assert not (tmp_path / "set.zip").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_disk_that_fills_up(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def to_a_full_disk(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO:
        return original(Path("/dev/full") if mode == "ab" else self, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", to_a_full_disk)
        with pytest.raises(QGBenchError, match=r"No space left on device\. Free some space"):
            fetch(owner.card(), tmp_path)
    assert not (tmp_path / "set.zip").exists()
    assert fetch(owner.card(), tmp_path)[0].read_bytes() == WHOLE


# Processes at once


def fetch_in_child(url: str, folder: Path, ready: Callable[[], object]) -> None:
    ready()
    fetch(card(Download(url=url, file="set.zip", sha256=None)), folder)


def test_two_processes_download_once(owner: Owner, tmp_path: Path) -> None:
    owner.delay = 0.5
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=fetch_in_child, args=(owner.url, tmp_path, barrier.wait)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert len(owner.requests) == 1
    assert (tmp_path / "set.zip").read_bytes() == WHOLE
    assert left(tmp_path) == ["set.zip", "set.zip.sha256"]
