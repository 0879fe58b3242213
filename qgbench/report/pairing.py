"""Which runs may be compared with one another."""

from collections.abc import Sequence

from qgbench.report.collect import Run

TWIN_WORDS = ("with", "without the add-on")
"""How the two sides of a pair of twins are called."""
SIDE_WORDS = ("of the first", "of the second")


def units_differ(runs: Sequence[Run]) -> bool:
    """Return whether runs were tested on different images."""
    return any(run.units.key != runs[0].units.key for run in runs[1:])


def refusal(pairs: Sequence[tuple[Run, Run]], words: tuple[str, str] = SIDE_WORDS) -> str:
    """Return why pairs of runs, one a seed, may not be compared.

    Parameters
    ----------
    pairs : sequence of (Run, Run)
    words : (str, str)
        How to call the two sides.

    Returns
    -------
    str
        Empty if they may.
    """
    if not pairs:
        return "the two have no seed in common"
    for own, other in pairs:
        for what, one, two in (
            ("precision", own.record.spec.precision, other.record.spec.precision),
            ("device class", own.device_class, other.device_class),
            ("number of processes", own.processes, other.processes),
        ):
            if one != two:
                return f"{what} differs at seed {own.seed}: {two} {words[1]}, {one} {words[0]}"
    if units_differ([run for pair in pairs for run in pair]):
        return f"the test {pairs[0][0].record.noun}s differ"
    return ""
