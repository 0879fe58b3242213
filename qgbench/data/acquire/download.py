"""Fetch a data set from its owner, where the owner offers direct links. Nothing is ever uploaded again.

What has arrived of a file is kept in ``.<file>.download/`` beside its place, so that a cut connection, Ctrl-C or a
killed process costs nothing: the next call asks for the rest, if the owner's file is still the same one. The folder is
gone once the file is whole and its SHA-256 is right.
"""

import json
import logging
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
import urllib3
from filelock import FileLock, Timeout

from qgbench.base.amounts import amount
from qgbench.base.errors import QGBenchError, UserError, unwritable
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.base.progress import Track, no_progress
from qgbench.base.text import read_text
from qgbench.data.acquire.archives import is_web_page
from qgbench.data.cards import Card
from qgbench.data.links import Download

_WAITS = (1.0, 2.0, 4.0)  # seconds before another attempt; as many attempts in a row may bring nothing
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
_MEBIBYTE = 1 << 20
_CHUNK = 1 << 16
_BUSY = (408, 429)  # answers besides 5xx that another attempt may change

_PART = ".part"  # in the folder of the download: the bytes that have arrived,
_VALIDATOR = ".validator"  # and what tells whether the owner's file is still the one that they are of


class _AttemptError(Exception):
    """An attempt failed in a way that another one may not."""


def fetch(card: Card, folder: Path, track: Track = no_progress) -> list[Path]:
    """Download all files of a data set.

    A file that is there with the right SHA-256 is not downloaded again. Where the owner states none, that of the first
    download is kept as ``<file>.sha256`` (as the program sha256sum writes it) and compared from then on.

    Parameters
    ----------
    card : Card
    folder : Path
        Where the files are kept; made if it is missing. One process at a time fetches a file, another one waits.
    track : Track
        Shows progress, in MiB.

    Returns
    -------
    list of Path
        The files, in the order of the card.

    Raises
    ------
    UserError
        The data set has no direct links, a link leads to nothing or to a web page, or a file has another SHA-256 than
        it should; such a file is removed.
    QGBenchError
        The network or the server fails, or the folder cannot be written; what has arrived is kept.
    """
    if not card.downloads:
        raise UserError(f"{card.name} is not fetched automatically: {_by_hand(card)}")
    logger.info("%s (%s): %s", card.title, card.homepage, card.terms)
    # Says on its own what is said here.
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_fetch_file(card, link, folder, track) for link in card.downloads]
    except OSError as error:
        raise unwritable(folder, error, "choose another --data-dir") from error


def _by_hand(card: Card) -> str:
    obtain = card.obtain or "get it from its homepage."
    return (
        f"{obtain} Terms: {card.terms.rstrip('.')}. Homepage: {card.homepage} "
        f"Then: qgbench data prepare {card.name} --source FILE_OR_FOLDER"
    )


def _fetch_file(card: Card, link: Download, folder: Path, track: Track) -> Path:
    file, pin = folder / link.file, folder / f"{link.file}.sha256"
    with _alone(folder / f".{link.file}.lock", link.file):
        expected = link.sha256 or _pinned(pin)
        if not file.exists():
            _retrieve(card, link, file, expected, track)
        elif expected is not None and pooch.file_hash(str(file)) != expected:
            logger.warning("%s is there with another SHA-256 than it should have; it is fetched again.", file)
            _retrieve(card, link, file, expected, track)
        if expected is None:
            found = pooch.file_hash(str(file))
            write_atomically(pin, f"{found}  {link.file}\n".encode())
            logger.info(
                "the owner of %s states no SHA-256 of %s; that of this copy is kept in %s and compared from now on.",
                card.title,
                link.file,
                pin,
            )
    return file


@contextmanager
def _alone(lock_file: Path, name: str) -> Iterator[None]:
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is fetching %s; waiting for it to end.", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _pinned(pin: Path) -> str | None:
    """Return the SHA-256 of the first download; None before that."""
    if not pin.exists():
        return None
    if (match := re.match(r"([0-9a-f]{64}) [ *]", read_text(pin))) is None:
        raise UserError(f"{pin} does not begin with a SHA-256 (64 hexadecimal digits); remove it or write it again.")
    return match[1]


def _retrieve(card: Card, link: Download, file: Path, expected: str | None, track: Track) -> None:
    """Download one file to its place. To be called under the file's lock."""
    arriving = file.absolute().with_name(f".{file.name}.download")
    arriving.mkdir(exist_ok=True)

    def download(url: str, output_file: str, _: object) -> None:
        _transfer(card, link, arriving, track)
        (arriving / _PART).replace(output_file)

    try:
        pooch.retrieve(link.url, expected, link.file, arriving, downloader=download)
    except ValueError as error:  # the SHA-256 is another one; pooch has removed the file
        shutil.rmtree(arriving)
        if link.sha256:
            origin, remedy = "the card of the data set", f"ask for a new card of {card.name}"
        else:
            origin, remedy = f"the first download ({file}.sha256)", "remove that note if you accept the new file"
        raise UserError(
            f"{link.url}: {error} The known hash is that of {origin}; nothing of the new file is used. Give the same "
            f"command again; if it stays so, the owner has changed the file: look at {card.homepage} and {remedy}."
        ) from error
    finally:
        with suppress(OSError):  # kept where something has arrived
            arriving.rmdir()
    (arriving / link.file).replace(file)
    shutil.rmtree(arriving)


def _transfer(card: Card, link: Download, arriving: Path, track: Track) -> None:
    """Bring the whole file to `_PART`, in as many attempts as it takes while each brings something."""
    part = arriving / _PART
    most, in_vain = _size(part), 0
    while True:
        try:
            return _attempt(card, link, arriving, track)
        except _AttemptError as error:
            # More than ever before, so that a server without ranges which always cuts the connection comes to an end.
            in_vain = 0 if _size(part) > most else in_vain + 1
            most = max(most, _size(part))
            if in_vain > len(_WAITS):
                raise QGBenchError(
                    f"{link.url}: {error}. Check the network, and give the same command again later: it goes on after "
                    f"the {amount(_size(part))} that have arrived."
                ) from error
            logger.info("%s: %s; trying again.", link.file, error)
            time.sleep(_WAITS[max(in_vain - 1, 0)])


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _attempt(card: Card, link: Download, arriving: Path, track: Track) -> None:
    have, validator = _arrived(arriving, link.url)
    # As it lies on the server: packed on the way, it would have other lengths and another hash.
    headers = {"Accept-Encoding": "identity", "User-Agent": "qgbench"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with requests.get(link.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            _receive(card, link, response, arriving, have, track)
    except (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects) as error:
        raise UserError(f"{link.url} cannot be fetched safely ({error}). Look at {card.homepage}") from error
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        host = urlsplit(link.url).hostname
        raise _AttemptError(f"the connection to {host} failed ({_cause(error)})") from error
    except requests.RequestException as error:
        raise UserError(f"{link.url} cannot be fetched ({error}). Look at {card.homepage}") from error


def _cause(error: BaseException) -> str:
    """Return the name of the innermost cause: the libraries wrap it in several layers of their own names."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


def _arrived(arriving: Path, url: str) -> tuple[int, str]:
    """Return how many bytes of the file are there and what the server knows it by; 0 if they are of no use."""
    try:
        known = json.loads((arriving / _VALIDATOR).read_text(encoding="utf-8"))
        if known["url"] == url and known["validator"]:
            return _size(arriving / _PART), known["validator"]
    except (OSError, ValueError, KeyError):
        pass
    return 0, ""


def _begin(arriving: Path, url: str, validator: str | None) -> None:
    """Forget what has arrived, and note what is to arrive."""
    (arriving / _PART).unlink(missing_ok=True)
    (arriving / _VALIDATOR).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _receive(card: Card, link: Download, response: requests.Response, arriving: Path, have: int, track: Track) -> None:
    """Append what the server sends, or start anew where it sends the whole file."""
    answer = f"{response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code in _BUSY:
        raise _AttemptError(f"the server answers {answer}")
    if response.status_code == 416 and have:
        if response.headers.get("Content-Range") == f"bytes */{have}":
            return  # there is no more
        _begin(arriving, link.url, None)
        raise _AttemptError("the server's file is not the one of which a part has arrived, so it starts anew")
    if response.status_code not in (200, 206):
        raise UserError(
            f"{link.url} answers {answer}: the owner has moved the file or asks for a login. Get it by hand: "
            f"{_by_hand(card)}"
        )
    chunks = response.raw.stream(_CHUNK, decode_content=False)
    if response.status_code == 206:
        sent = re.match(rf"bytes {have}-\d+/(\d+)$", response.headers.get("Content-Range", ""))
        # Some servers send the rest of a changed file all the same.
        if sent is None or _validator(response) not in (None, _arrived(arriving, link.url)[1]):
            _begin(arriving, link.url, None)
            raise _AttemptError("the server sends something else than the missing part, so it starts anew")
        whole: int | None = int(sent[1])
    else:
        have = 0
        first = next(chunks, b"")
        if response.headers.get("Content-Type", "").lower().startswith("text/html") or is_web_page(first):
            raise UserError(
                f"{link.url} now leads to a web page and not to {link.file}. Get it by hand: {_by_hand(card)}"
            )
        if not first:
            raise _AttemptError("the server sends nothing")
        chunks = chain([first], chunks)
        _begin(arriving, link.url, _validator(response))
        length = response.headers.get("Content-Length", "")
        whole = int(length) if length.isdecimal() else None
    _append(link, chunks, arriving / _PART, have, whole, track)


def _validator(response: requests.Response) -> str | None:
    """Return what tells two versions of a file apart, bit for bit; None where the server does not say."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _append(link: Download, chunks: Iterator[bytes], part: Path, have: int, whole: int | None, track: Track) -> None:
    """Write to the file that holds `have` of `whole` bytes; None where the server does not say how many there are."""
    if whole is None:
        logger.info("%s: the server does not say how large it is.", link.file)
        deque(_written(chunks, part), maxlen=0)
        return
    rest = whole - have
    if rest > (free := shutil.disk_usage(part.parent).free):
        raise QGBenchError(
            f"{link.file} needs {amount(rest)} more and {part.parent.parent} has {amount(free)} left. Free some "
            "space, or choose another --data-dir, and give the same command again."
        )
    going_on = f" after {have // _MEBIBYTE} MiB" if have else ""
    deque(track(_written(chunks, part), f"Fetching {link.file}{going_on}", -(-rest // _MEBIBYTE), "MiB"), maxlen=0)
    if _size(part) != whole:
        raise _AttemptError(f"the connection was cut after {_size(part)} of {whole} bytes")


def _written(chunks: Iterator[bytes], part: Path) -> Iterator[None]:
    """Append chunks to a file; yield once for each MiB, the last one begun included."""
    unseen = 0
    with part.open("ab") as file:
        for chunk in chunks:
            unseen += file.write(chunk)
            while unseen >= _MEBIBYTE:
                unseen -= _MEBIBYTE
                yield
        if unseen:
            yield
