"""The command line in processes of its own, for tests that kill it, signal it or start it twice.

A fork server that has imported everything starts each process in a fraction of a second.
"""

import multiprocessing
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from PIL import Image

from qgbench.data.readers import open_source
from qgbench.run.folder import RunFolder

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("qgbench.run.carry_out", "qgbench.cli.main", "qgbench.baselines.fixmatch", "qgbench.report.cases"),
        *("matplotlib.style", "matplotlib.backends.backend_agg", "tests.commands"),
    ]
)

RUN = ["run", "--protocol", "smoke", "--threads", "1", "--steps", "10", "--labelled", "6"]
QUICK_G = ["--set", "quality.steps=6", "--set", "quality.weak_epochs=[1,2]", "--set", "quality.weak_epoch_min_steps=2"]
BRIEF = {  # what takes longer than the training where that has a few steps
    "qgbench.report.figures.cases._RESOLUTION": 40.0,  # dots per inch
    "qgbench.training.loop.AUDIT_IMAGES": 16,  # whose pseudo-labels are judged at each quarter
    "qgbench.quality.fit._AUDIT_MASKS": 4,  # of each validation image, which g is judged by at its end
}


def small_data(folder: Path) -> Path:
    """Write the first 40 images of the phantom (20 patients) as a data set of its own."""
    source = open_source("phantom")
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    chosen = list(zip(source.ids, source.groups, strict=True))[:40]
    for id, _ in chosen:
        Image.fromarray(source.image(id)).save(folder / "images" / f"{id}.png")
        Image.fromarray(source.mask(id)).save(folder / "masks" / f"{id}.png")
    (folder / "groups.csv").write_text("stem,group\n" + "".join(f"{id},{group}\n" for id, group in chosen))
    return folder


def make_brief(patch: pytest.MonkeyPatch) -> None:
    """Let runs draw coarsely, and judge few labels and masks."""
    for name, value in BRIEF.items():
        patch.setattr(name, value)


def _main(words: list[str], said: Path, cache: Path, seconds: float, file_limit: int | None) -> None:
    """Become the command: its standard output and error go to a file, its exit code is the process's."""
    os.environ["QGBENCH_CACHE"] = str(cache)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["qgbench", *words]
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    from qgbench.cli.main import main
    from qgbench.engine import stage

    make_brief(pytest.MonkeyPatch())
    stage.SECONDS_BETWEEN_CHECKPOINTS = seconds
    main()


class Command:
    """A started command.

    Parameters
    ----------
    words : list of str
        What is typed after ``qgbench``.
    said : Path
        File that its output is appended to.
    cache : Path
        Its cache of prepared images.
    seconds : float
        Between two checkpoints.
    file_limit : int, optional
        Bytes beyond which the operating system lets no file grow: a write then fails as on a full disk.
    """

    def __init__(
        self, words: list[str], said: Path, cache: Path, seconds: float = 0.3, file_limit: int | None = None
    ) -> None:
        self._said = said
        self.process: ForkServerProcess = _CONTEXT.Process(target=_main, args=(words, said, cache, seconds, file_limit))
        self.process.start()

    def finish(self, seconds: float = 240.0) -> int:
        """Wait for its end and give its exit code, negative for a signal that killed it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the command did not end within {seconds} s: {self.said()}")
        return self.process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until something holds; the command must not end before that."""
        begin = time.monotonic()
        while not condition():
            assert self.process.exitcode is None, self.said()
            assert time.monotonic() - begin < seconds, self.said()
            time.sleep(0.01)

    def said(self) -> str:
        """Standard output and error so far."""
        return self._said.read_text() if self._said.exists() else ""


def only_run(output: Path) -> RunFolder:
    """The single run in a folder of runs."""
    (config,) = output.glob("*/config.json")
    return RunFolder(config.parent)


def has_checkpoint(output: Path, step: int = 1) -> bool:
    """Tell whether the single run in a folder has logged a step, and so saved it."""
    found = list(output.glob("*/log.jsonl"))
    numbers = re.findall(r'"step": (\d+)', found[0].read_text()) if found else []
    return any(int(number) >= step for number in numbers)
