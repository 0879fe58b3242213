"""Compare a rerun's numbers with the reference's, and print what was found. Imports no torch.

On the processor and with the packages of the reference every number must be the same. Elsewhere a number may lie as far
away as its tolerance, which comes from the noise of the same code computed in other ways (``perf/regress_noise.py``);
fingerprints, which are no result of rounding, must be the same there too.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qgbench.base.errors import UserError
from qgbench.regress.outcome import ROWS
from qgbench.regress.reference import Noise, Numbers, Origin, Reference, Tolerance, Value
from qgbench.trust.reproduce import Condition

FACTOR = 5.0
"""Limit / largest difference that was measured: a few ways to compute on one processor are not all there are."""
LEAST = 1e-5
"""Least limit, as a share of the largest number of its name: some hundred roundings in float32, as other kernels do."""
_FEW = ("missed", "spurious", "kept_share")
"""Counts and shares of few things: until the first of them flips, what was measured says nothing of another machine."""
_SHOWN = 40  # differing numbers that are printed

Verdict = Literal["same", "within tolerance", "not compared", "differs", "missing", "new"]
FAULTS: tuple[Verdict, ...] = ("differs", "missing", "new")


@dataclass(frozen=True)
class Finding:
    """One number, compared.

    Attributes
    ----------
    item, name : str
        As in `qgbench.regress.reference.Numbers`.
    reference, here : float, str or None
    limit : float or None
        Largest difference that passes; None where the number is no measure of anything or was not compared.
    verdict : Verdict
    """

    item: str
    name: str
    reference: Value
    here: Value
    limit: float | None
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        """Here minus reference; None where these are not two numbers."""
        return _difference(self.reference, self.here)


def _difference(first: Value, second: Value) -> float | None:
    if isinstance(first, int | float) and isinstance(second, int | float):
        return float(second - first)
    return None


def stage_of(item: str) -> str:
    """Return the stage of an item: 'data', 'evaluation', 'steps' or 'run'."""
    return item.partition(":")[0]


def exact(conditions: Sequence[Condition]) -> bool:
    """Return whether every number must be the same: by packages and processors (`reproduce.compare_machines`)."""
    return all(condition.same for condition in conditions if condition.role != "none")


def compare(reference: Reference, here: Numbers, is_exact: bool, whole: bool = True) -> list[Finding]:
    """Return how every number compares with the reference's.

    Parameters
    ----------
    reference : Reference
    here : Numbers
    is_exact : bool
        Every number must be the same (`exact`).
    whole : bool
        All runs of the suite were rerun; else those that were not are not missed.

    Raises
    ------
    UserError
        Tolerances are needed, and some were never measured.
    """
    tolerances = None if is_exact else _tolerances(reference)
    found: list[Finding] = []
    for item in dict.fromkeys((*reference.numbers, *here)):
        if item not in here and not whole and stage_of(item) == "run":
            continue
        then, now = reference.numbers.get(item, {}), here.get(item, {})
        for name in dict.fromkeys((*then, *now)):
            if name not in now:
                found.append(Finding(item, name, then[name], None, None, "missing"))
            elif name not in then:
                found.append(Finding(item, name, None, now[name], None, "new"))
            else:
                found.append(_compared(item, name, then[name], now[name], tolerances))
    return found


def _tolerances(reference: Reference) -> Mapping[str, Tolerance]:
    known = {} if reference.noise is None else reference.noise.tolerances
    needed = {
        f"{stage_of(item)}: {name}"
        for item, numbers in reference.numbers.items()
        for name, value in numbers.items()
        if not isinstance(value, str)
    }
    if lacking := sorted(needed - set(known)):
        raise UserError(
            "this is another processor, or other versions, than the reference's, and nobody has measured how far "
            f"{len(lacking)} of its numbers ({lacking[0]}, ...) may then lie apart. On the reference's machine, in a "
            "checkout: python perf/regress_noise.py"
        )
    return known


def _compared(item: str, name: str, then: Value, now: Value, tolerances: Mapping[str, Tolerance] | None) -> Finding:
    if then == now:
        return Finding(item, name, then, now, None, "same")
    if tolerances is None:
        return Finding(item, name, then, now, 0.0 if _difference(then, now) is not None else None, "differs")
    if isinstance(then, str) or isinstance(now, str):
        return Finding(item, name, then, now, None, "not compared" if name == ROWS else "differs")
    limit = tolerances[f"{stage_of(item)}: {name}"].limit
    if limit is None:
        return Finding(item, name, then, now, None, "not compared")
    difference = _difference(then, now)
    passes = difference is not None and abs(difference) <= limit
    return Finding(item, name, then, now, limit, "within tolerance" if passes else "differs")


def measured_noise(reference: Numbers, variants: Mapping[str, Numbers], origin: Origin) -> Noise:
    """Return tolerances, derived from the same code computed in other ways.

    The numbers of one name and stage share a tolerance: `FACTOR` times the largest difference from the reference, over
    all items (methods, runs) and variants, but not less than `LEAST` of the largest number. What is a number in one way
    and not in another is given none, nor what no variant has, nor what counts few things in runs and never moved.

    Parameters
    ----------
    reference : Numbers
    variants : mapping of str to Numbers
        By the way in which they were computed, in words; items that all of them lack share the tolerances of others.
    origin : Origin
        Of the variants.
    """
    differences: dict[str, list[float | None]] = {}
    sizes_of: dict[str, float] = {}  # largest numbers
    for item, numbers in reference.items():
        for name, then in numbers.items():
            if isinstance(then, str):
                continue
            key = f"{stage_of(item)}: {name}"
            pool = differences.setdefault(key, [])
            sizes_of[key] = max(sizes_of.get(key, 0.0), abs(then or 0.0))
            for other in variants.values():
                if item in other:
                    now = other[item].get(name)
                    pool.append(0.0 if then == now else _difference(then, now))
    tolerances = {}
    for key, pool in differences.items():
        sizes = [abs(value) for value in pool if value is not None]
        largest = max(sizes) if sizes and len(sizes) == len(pool) else None
        never_moved = largest == 0 and stage_of(key) == "run" and key.rpartition(" ")[2] in _FEW
        limit = None if largest is None or never_moved else limit_of(largest, sizes_of[key])
        tolerances[key] = Tolerance(limit=limit, largest=largest, differences=len(pool))
    return Noise(origin=origin, variants=list(variants), factor=FACTOR, tolerances=tolerances)


def widened(known: Noise, noise: Noise) -> Noise:
    """Return known tolerances, made as wide as those of another processor; what nobody had measured is taken over."""

    def wider(one: Tolerance, other: Tolerance) -> Tolerance:
        if not (one.differences and other.differences):
            return one if one.differences else other
        differences = one.differences + other.differences
        if one.limit is None or other.limit is None:
            return Tolerance(limit=None, largest=None, differences=differences)
        first = max(one, other, key=lambda each: each.limit or 0.0)
        return first.model_copy(update={"differences": differences})

    none = Tolerance(limit=None, largest=None, differences=0)
    tolerances = {name: wider(known.tolerances.get(name, none), each) for name, each in noise.tolerances.items()}
    return noise.model_copy(
        update={"variants": list(dict.fromkeys((*known.variants, *noise.variants))), "tolerances": tolerances}
    )


def limit_of(largest: float, size: float) -> float:
    """Return the limit for the largest difference that was measured and the largest number of that name."""
    return _rounded_up(max(FACTOR * largest, LEAST * size))


def _rounded_up(value: float) -> float:
    """Return a number rounded up to two digits, so that the file stays small and readable."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def print_findings(findings: Sequence[Finding], is_exact: bool, console: Console) -> None:
    """Print what differs, number by number, and then what was compared, stage by stage."""
    faults = [finding for finding in findings if finding.verdict in FAULTS]
    if faults:
        table = Table(title="what differs")
        table.add_column("where", overflow="fold")
        table.add_column("number", overflow="fold")
        for title in ("reference", "here", "difference", "allowed"):
            table.add_column(title, justify="right", overflow="fold")
        item = ""
        for finding in faults[:_SHOWN]:
            difference = finding.difference
            table.add_row(
                "" if finding.item == item else escape(finding.item),
                escape(finding.name),
                _shown(finding.reference) if finding.verdict != "new" else "[red]none[/red]",
                _shown(finding.here) if finding.verdict != "missing" else "[red]none[/red]",
                "" if difference is None else f"{difference:+.3g}",
                "" if finding.limit is None else f"{finding.limit:.3g}",
            )
            item = finding.item
        console.print(table)
        if len(faults) > _SHOWN:
            console.print(f"... and {len(faults) - _SHOWN} more numbers.")
    table = Table(title="what was compared")
    table.add_column("stage")
    verdicts: tuple[Verdict, ...] = ("same", "within tolerance", "not compared", "differs")
    for title in ("items", *verdicts):
        table.add_column(title, justify="right")
    table.add_column("nearest to its tolerance", overflow="fold")
    for stage in dict.fromkeys(stage_of(finding.item) for finding in findings):
        own = [finding for finding in findings if stage_of(finding.item) == stage]
        counts = Counter("differs" if finding.verdict in FAULTS else finding.verdict for finding in own)
        items = len({finding.item for finding in own})
        table.add_row(stage, str(items), *(str(counts[verdict]) for verdict in verdicts), _nearest(own))
    console.print(table)
    rule = "every number must be the same" if is_exact else "numbers may differ by their tolerances"
    console.print(f"rule: {rule}.", highlight=False)


def _nearest(findings: Sequence[Finding]) -> str:
    shares = [
        (abs(finding.difference) / finding.limit, finding)
        for finding in findings
        if finding.verdict == "within tolerance" and finding.difference is not None and finding.limit
    ]
    if not shares:
        return ""
    share, finding = max(shares, key=lambda pair: pair[0])
    return escape(f"{share:.0%}: {finding.name}, {finding.item.partition(': ')[2]}")


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "-" if value is None else str(value)
    return escape(text if len(text) <= 24 else f"{text[:12]}...")
