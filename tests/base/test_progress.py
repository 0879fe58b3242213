"""Progress of long stages."""

import time
from io import StringIO

import pytest
from rich.console import Console

from qgbench.base import progress


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.05, "20.0 steps/s, 0 s left"), (1.0, "1.0 steps/s"), (1.25, "1.2 s/step"), (40.0, "40.0 s/step")],
)
def test_a_slow_step_is_counted_in_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, said: str
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in progress.track(range(3), "training", 3):
        now += seconds
    assert f"training: 3/3 steps, {said}" in capsys.readouterr().err.splitlines()[-1]


def test_a_terminal_shows_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now, screen = 0.0, StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, get_time=lambda: now)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    for _ in progress.track(range(3), "training", 3, "images"):
        now += 4.0
    assert "4.0 s/image" in screen.getvalue()
