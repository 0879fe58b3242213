"""The numbers of finished runs, by name. Imports no torch."""

import hashlib
from collections.abc import Iterable, Mapping

from qgbench.base.schema import finite_or_none
from qgbench.launch.job import Job
from qgbench.regress.reference import Numbers, Value
from qgbench.run.folder import RunFolder
from qgbench.run.record import IMAGES_NAME, Record, Summary, read_images

STAGE = "run"
ROWS = "rows"
"""Name of the fingerprint of a run's per-image table, which any difference of any image changes."""
_COUNTED = ("images", "groups", "absent")
_ROWS = [
    *("id", "group", "height", "width", "n_ref", "n_pred", "n_tp", "dice", "jaccard", "precision", "recall"),
    *("hd95", "hd95_max", "assd", "nsd_2px", "nsd_2pct", "status", "q", "confidence"),
]
"""Columns of the fingerprint, in the order in which references have always had them."""


def numbers_of_runs(runs: Iterable[Job]) -> Numbers:
    """Read the numbers of finished runs: fingerprints, losses and validation Dice on the way, results, g's worth.

    Raises
    ------
    QGBenchError
        A record or table cannot be read.
    """
    return {f"{STAGE}: {job.words}": _numbers(job.folder) for job in runs}


def _numbers(folder: RunFolder) -> dict[str, Value]:
    record, rows = folder.record(), read_images(folder.path / IMAGES_NAME)
    assert record is not None  # only finished runs are asked
    found: dict[str, Value] = {
        "data": record.provenance.data,
        "split": record.provenance.split,
        "labelled": digest(record.provenance.labelled_ids),
        "encoder": record.provenance.encoder,
        ROWS: hashlib.sha256(rows[_ROWS].to_csv(index=False, float_format="%.17g").encode()).hexdigest(),
    }
    found |= logged(folder.log())
    found |= {name: int(rows[name].sum()) for name in ("n_ref", "n_pred", "n_tp")}
    found |= averages(record.summary)
    if (teacher := record.summaries.get("teacher")) is not None:
        found |= {f"teacher {name}": teacher.means[name] for name in ("dice", "hd95")}
    return found | _quality(record)


def averages(summary: Summary) -> dict[str, Value]:
    """Return averages over the test images, by their names in the record."""
    return {name: value for name, value in summary.numbers().items() if name not in _COUNTED}


def logged(log: Iterable[Mapping[str, float | None]]) -> dict[str, Value]:
    """Return a run's log, each number under its step: 'step 11 supervised'; correlations, of few images, left out.

    Parameters
    ----------
    log : iterable of mapping
        Entries of `qgbench.training.loop.History.log`.
    """
    return {
        f"step {entry['step']} {name}": None if value is None else finite_or_none(value)
        for entry in log
        for name, value in entry.items()
        if name != "step" and "pearson" not in name and "spearman" not in name
    }


def _quality(record: Record) -> dict[str, Value]:
    found: dict[str, Value] = {}
    if record.audit is not None:
        found["g synthetic mae"] = record.audit.synthetic.mae
        if record.audit.synthetic_test is not None:
            found["g synthetic_test mae"] = record.audit.synthetic_test.mae
        found["g weak_models mae"] = record.audit.weak_models.mae
        found["g image_dependence"] = record.audit.image_dependence
    for audit in record.pseudo_labels:
        when = "pooled" if audit.progress is None else f"at {audit.progress:g}"
        found[f"pseudo_labels {when} dice"] = audit.mean_dice
        found |= {f"pseudo_labels {when} mae of {name}": score.mae for name, score in audit.scores.items()}
    if record.guidance is not None:
        found |= {f"guidance {name}": value for name, value in record.guidance.model_dump().items()}
    return found


def digest(ids: Iterable[str]) -> str:
    """Return number and fingerprint of names: '12: 1a2b3c4d5e6f'."""
    names = list(ids)
    return f"{len(names)}: {hashlib.sha256(repr(names).encode()).hexdigest()[:12]}"
