"""Time and memory of a report over many records: ``python perf/report_scale.py [RECORDS] [--html] [--no-figures]``.

Records of 100 test images in 50 groups are generated: 20 data sets, 50 methods with and without QW, 5 seeds. Printed
are, of reading, analysis and writing, the seconds on the clock and those of processors (all processes together: on a
machine that does other work too, these say more); and the peak memory of the report's process and of its largest
helper.
"""

import argparse
import itertools
import math
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from qgbench.metrics.table import CLASS, IMAGE_COLUMNS
from qgbench.run.record import Provenance, Record, Times, settings_as_used, summarise, write_images, write_record
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

IMAGES, GROUPS = 100, 50
PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def images_of(dice: np.ndarray, areas: np.ndarray) -> pd.DataFrame:
    """Return per-image rows whose counts agree with their Dice as nearly as whole pixels can."""
    both = np.rint(dice * areas)
    dice = both / areas
    table = pd.DataFrame(
        {
            "id": [f"image{n:03}" for n in range(IMAGES)],
            "class": CLASS,
            "group": [f"g{n * GROUPS // IMAGES:02}" for n in range(IMAGES)],
            "height": 200,
            "width": 300,
            "n_ref": areas,
            "n_pred": areas,
            "n_tp": both.astype(int),
            "dice": dice,
            "jaccard": dice / (2 - dice),
            "precision": dice,
            "recall": dice,
            "hd95": 40 * (1 - dice),
            "hd95_max": 45 * (1 - dice),
            "assd": 15 * (1 - dice),
            "nsd_2px": dice**2,
            "nsd_2pct": dice,
            "status": np.where(both > 0, "ok", "missed"),
            "q": 0.8,
            "confidence": 0.9,
        }
    )
    return table[IMAGE_COLUMNS]


def generate(folder: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    places = itertools.product(range(20), range(50), (False, True), range(5))
    difficulty = {d: 0.55 + 0.4 * noise.random(IMAGES) for d in range(20)}
    areas = {d: noise.integers(500, 5000, IMAGES) for d in range(20)}
    for d, m, guided, seed in itertools.islice(places, count):
        skill = 0.02 * math.sin(m) + 0.01 * guided + 0.01 * noise.standard_normal()
        images = images_of(np.clip(difficulty[d] + skill + 0.03 * noise.standard_normal(IMAGES), 0.05, 0.99), areas[d])
        spec = RunSpec(
            protocol="small",
            protocol_version=load_protocol("small").version,
            dataset=f"set{d:02}",
            regime="n28@grouped",
            arch="unet",
            encoder="tf_efficientnet_lite0",
            method=f"method{m:02}",
            qg_mode="qw" if guided else "none",
            precision="bf16",
            device="cpu",
            threads=1,
            seed=seed,
        )
        record = Record(
            run_id=spec.id,
            spec=spec,
            settings=settings_as_used(spec.resolve(), Settings()),
            summaries={"student": summarise(images)},
            best_val_step=None,
            val_dice=[(step, 0.5 + step / 500) for step in range(20, 201, 20)],
            audit=None,
            pseudo_labels=[],
            pseudo_labels_on="unlabelled training images",
            guidance=None,
            times=Times(g=100.0, g_reused=seed > 0, train=90.0, evaluate=3.0),
            peak_memory_mib=1500.0,
            provenance=Provenance(
                created="2026-01-01T00:00:00+00:00",
                git_commit=None,
                packages={},
                python="3.11",
                hardware={},
                data="0",
                split="0",
                labelled_ids=[],
                g=None,
            ),
        )
        write_images(folder / spec.id / "images.csv", images)
        write_record(folder / spec.id, record)


def measure(folder: Path, html: bool, figures: bool) -> None:
    from qgbench.report.analysis import analyse
    from qgbench.report.collect import collect
    from qgbench.report.write import write_report

    times = [clocks()]
    collection = collect([folder])
    times.append(clocks())
    analysis = analyse(collection)
    times.append(clocks())
    write_report(analysis, folder / "report", figures=figures, html=html)
    times.append(clocks())
    print(f"{len(collection.runs)} records, {len(collection.problems)} problems")
    begins, ends = [*times[:-1], times[0]], [*times[1:], times[-1]]
    for stage, begin, end in zip(("reading", "analysis", "writing", "together"), begins, ends, strict=True):
        clock, processors = np.subtract(end, begin)
        print(f"{stage:9} {clock:6.1f} s, {processors:6.1f} s of processors")
    peak, helper = (resource.getrusage(who).ru_maxrss / 1024 for who in PROCESSES)
    print(f"peak {peak:.0f} MiB, and {helper:.0f} MiB in each helper")


def clocks() -> tuple[float, float]:
    """Return seconds on the clock, and of processors: of this process and of its helpers that have ended."""
    usages = [resource.getrusage(who) for who in PROCESSES]
    return time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="?", type=int, default=10_000)
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--no-figures", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        generate(Path(place), options.records)
        child = multiprocessing.get_context("spawn").Process(
            target=measure, args=(Path(place), options.html, not options.no_figures)
        )
        child.start()
        child.join()


if __name__ == "__main__":
    main()
