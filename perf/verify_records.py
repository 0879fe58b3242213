"""Seconds and memory that verifying takes: ``python perf/verify_records.py [RECORDS]``, 10,000 by default.

Every record is of the protocol of today, so that all rules apply: the golden record (100 images of PH2) under another
learning rate or seed, with other counts, and as many audited pseudo-labels as its seeds leave unlabelled images.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from qgbench.data.splits import draw_labelled, load_split
from qgbench.plugins.registry import load
from qgbench.quality.audit import audits_of
from qgbench.run.record import (
    hash_of_rows,
    images_path,
    labels_path,
    read_images,
    read_labels,
    read_record,
    result_path,
    settings_as_used,
    summarise,
    write_images,
    write_labels,
)
from qgbench.spec.addons import addon_settings
from qgbench.spec.run_spec import RunSpec
from qgbench.trust.verify import verify_records

GOLDEN = Path(__file__).parent.parent / "tests/golden/records"
SEEDS = 5
PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def write_results(results: Path, records: int) -> None:
    golden, rows = read_record(GOLDEN / "v2"), read_images(GOLDEN / "v1/images.csv")
    of_ph2, labels = read_record(GOLDEN / "v1"), read_labels(GOLDEN / "v2/labels.csv")
    split = load_split("ph2")
    labelled = [draw_labelled(split[split["split"] == "train"], 28, "ph2", seed) for seed in range(SEEDS)]
    unlabelled = sorted({*split["id"][split["split"] == "train"]} - {id for ids in labelled for id in ids})
    names = dict(zip(labels["id"].unique(), unlabelled, strict=False))
    labels = labels[labels["id"].isin(names)].assign(id=labels["id"].map(names))
    stream = np.random.default_rng(0)
    for number in range(records):
        cell, seed = divmod(number, SEEDS)
        mode = "none" if cell % 2 else "qw"
        overrides = {"train.lr": 1e-3 + 1e-6 * (1 + cell // 2)}
        spec = RunSpec.model_validate(
            of_ph2.spec.model_dump(exclude={"protocol_version"})
            | {"seed": seed, "qg_mode": mode, "overrides": overrides}
        )
        images = rows.copy()
        ref, pred = images["n_ref"], images["n_pred"]
        fewer = stream.uniform(0.0, 0.2, len(images)) * images["n_tp"]
        room = images["height"] * images["width"] - ref - pred + images["n_tp"]
        images["n_tp"] = tp = images["n_tp"] - np.minimum(np.floor(fewer).astype(int), room)
        images["dice"], images["jaccard"] = 2 * tp / (ref + pred), tp / (ref + pred - tp)
        images["precision"], images["recall"] = tp / pred, tp / ref
        if mode == "none":
            images["q"] = np.nan
        protocol, addons = spec.resolve(), addon_settings(spec)
        every, steps = protocol.train.steps // protocol.train.validations, protocol.train.steps
        of_g = {"g": f"ph2-n28-{protocol.size}px-k{seed}-{'0' * 12}", "g_weights": f"{seed + 1:064}"}
        source = {"labelled_ids": labelled[seed], **(of_g if spec.needs_g else dict.fromkeys(of_g))}
        changes: dict[str, Any] = {
            "run_id": spec.id,
            "spec": spec,
            "settings": settings_as_used(protocol, load("method", spec.method).Settings(), addons),
            "summaries": {"student": summarise(images)},
            "best_val_step": steps,
            "val_dice": [(step, 0.5 + step / 1e6) for step in range(every, steps + 1, every)],
            "pseudo_labels": audits_of(labels if spec.needs_g else labels.drop(columns="g")),
            "provenance": of_ph2.provenance.model_copy(update=source | {"encoder": golden.provenance.encoder}),
        }
        record = golden.model_copy(update=changes if spec.needs_g else changes | {"audit": None, "guidance": None})
        target = results / result_path(record)
        write_images(images_path(target), images)
        write_labels(labels_path(target), labels if spec.needs_g else labels.drop(columns="g"))
        record = record.model_copy(update={"rows": hash_of_rows(target, record.run_id)})
        target.write_text(record.model_dump_json(indent=1))


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in PROCESSES]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder), records)
        begin, begin_cpu = time.monotonic(), processor_seconds()
        found = verify_records([Path(folder)])
        seconds, cpu = time.monotonic() - begin, processor_seconds() - begin_cpu
    peak, worker = (resource.getrusage(who).ru_maxrss / 2**10 for who in PROCESSES)
    time_taken = f"{seconds:.1f} s ({cpu:.1f} s of one processor)"
    memory = f"peak {peak:.0f} MiB, and {worker:.0f} MiB in each worker"
    print(f"{records} records of 100 images: {time_taken}, {memory}, {len(found)} findings")


if __name__ == "__main__":
    main()
