"""The examination of a machine: what it finds, what it says of what is amiss, and that no part hides another."""

import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from rich.console import Console

import qgbench.cli.doctor as doctor
from qgbench.base.errors import UserError
from qgbench.cli.doctor import Finding, available_cores, available_memory, bf16_unit, examine, print_findings
from qgbench.data.cards import card_names, load_card

TOPICS = [
    "python",
    "qgbench",
    "torch",
    "packages",
    "devices",
    "precision",
    "threads",
    "memory",
    "output",
    "cache",
    "data",
    "weights",
    "extras",
]  # in this order


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle cores."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 1.0)


def about(topic: str, data_dir: Path | None, output: Path) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in examine(data_dir, output) if finding.topic == topic]


def test_a_whole_examination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    findings = list(examine(None, tmp_path / "runs"))
    assert [topic for topic, _ in itertools.groupby(findings, key=lambda finding: finding.topic)] == TOPICS
    assert [finding for finding in findings if finding.level == "error"] == []
    text = {topic: " ".join(f.text for f in findings if f.topic == topic) for topic in TOPICS}
    assert torch.__version__ in text["torch"]
    assert f"numpy {np.__version__}" in text["packages"]
    assert "296 tensors" in text["weights"]  # of timm's tf_efficientnet_lite0
    assert "small (encoder)" in text["weights"]
    assert re.search(r"resnet34: .*paper \(encoder\)", text["weights"])
    assert "QGBENCH_DATA is not set" in text["data"]
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_broken_part_hides_no_other(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Remarks:
        yield "ok", "so far"
        raise OSError("the disk is on fire")

    def refused() -> doctor.Remarks:
        raise UserError("extras are out of fashion.")
        yield

    monkeypatch.setattr(doctor, "_memory", broken)
    monkeypatch.setattr(doctor, "_extras", refused)
    findings = list(examine(None, tmp_path))
    assert [topic for topic, _ in itertools.groupby(f.topic for f in findings)] == TOPICS
    assert Finding("memory", "ok", "so far") in findings
    assert Finding("memory", "error", "OSError: the disk is on fire") in findings
    assert findings[-1] == Finding("extras", "error", "extras are out of fashion.")


def test_a_broken_torch_is_found(tmp_path: Path) -> None:
    """Another process, in which torch cannot be imported: its parts say so, the others go on."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')")
    code = (
        "import sys; from pathlib import Path; from qgbench.cli.doctor import examine\n"
        f"for finding in examine(None, Path({str(tmp_path / 'runs')!r})): print(finding.level, finding.topic)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for topic in ("torch", "devices", "weights"):
        assert f"error {topic}" in lines
    assert "ok qgbench" in lines
    for topic in ("python", "precision", "threads", "memory", "output", "cache", "data", "extras"):
        assert f"error {topic}" not in lines
        assert any(line.endswith(f" {topic}") for line in lines)


def test_an_output_that_is_a_file_cannot_be_written(tmp_path: Path, quick: None) -> None:
    (tmp_path / "runs").write_text("mine")
    for output in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        ((level, text),) = about("output", None, output)
        assert level == "error"
        assert str(output) in text
        assert "--output" in text
    assert (tmp_path / "runs").read_text() == "mine"


def test_a_cache_that_cannot_be_written(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    ((level, text),) = about("cache", None, tmp_path)
    assert level == "error"
    assert "QGBENCH_CACHE" in text


def test_a_full_disk(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**30 - 1))
    assert [level for level, _ in about("output", None, tmp_path)] == ["warning"]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**30))
    assert [level for level, _ in about("output", None, tmp_path)] == ["ok"]


def test_an_output_that_exists_keeps_what_it_has(tmp_path: Path, quick: None) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("1")
    about("output", None, tmp_path / "runs")
    about("output", None, tmp_path / "runs" / "a" / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "mine"]


def test_little_memory(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((4 * 2**30 - 1, "warning"), (4 * 2**30, "ok")):
        monkeypatch.setattr(doctor, "available_memory", lambda machine, free=free: free)
        assert [found for found, _ in about("memory", None, tmp_path)] == [level]


def place(folder: Path, name: str, count: int) -> None:
    """Lay a shipped data set out with so many images."""
    pixels = Image.fromarray(np.zeros((32, 32), np.uint8))
    parts = ("unlabelled",) if load_card(name).kind == "pool" else ("images", "masks")
    for part in parts:
        (folder / name / part).mkdir(parents=True)
        for index in range(count):
            pixels.save(folder / name / part / f"a{index}.png")


def test_data(tmp_path: Path, quick: None) -> None:
    place(tmp_path, "ph2", 200)
    place(tmp_path, "scd", 7)
    place(tmp_path, "kvasir_pool", 3)
    (tmp_path / "isic2017").mkdir()
    found = about("data", tmp_path, tmp_path)
    by_name = {text.partition(":")[0]: (level, text) for level, text in found}
    assert by_name["phantom"][0] == "ok"
    assert by_name["ph2"] == ("ok", f"ph2: 200 images in {tmp_path / 'ph2'}")
    assert by_name["scd"] == ("warning", f"scd: 7 images in {tmp_path / 'scd'}; its card expects 206")
    assert by_name["kvasir_pool"][0] == "warning"
    assert by_name["isic2017"][0] == "error"
    assert "there is no folder" in by_name["isic2017"][1]
    level, text = found[-1]
    assert level == "ok"
    assert all(name in text for name in ("cvc_clinicdb", "cvc_colondb", "isic_pool", "DIR/NAME/images"))
    assert "ph2" not in text.partition(": ")[2]


def test_data_that_are_nowhere(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QGBENCH_DATA", str(tmp_path / "absent"))
    assert about("data", None, tmp_path)[-1][0] == "error"
    monkeypatch.setenv("QGBENCH_DATA", str(tmp_path))
    level, text = about("data", None, tmp_path)[-1]
    assert level == "warning"
    assert all(name in text for name in card_names() if not name.startswith("phantom"))
    monkeypatch.delenv("QGBENCH_DATA")
    assert {level for level, _ in about("data", None, tmp_path)} == {"ok"}


def test_fewer_cores_than_the_protocol_wants(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for cores, levels in ((2.0, ["ok"]), (1.5, ["ok", "warning"])):
        monkeypatch.setattr(doctor, "available_cores", lambda cores=cores: cores)
        found = about("threads", None, tmp_path)
        assert [level for level, _ in found] == levels
        assert "OMP_NUM_THREADS 7" in found[0][1]
    assert "--threads 1" in found[1][1]


def test_busy_cores_want_threads_that_sleep(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: 8.0)
    for busy, policy, levels in (
        (90.0, "active", ["ok", "warning"]),
        (90.0, "passive", ["ok"]),
        (10.0, "active", ["ok"]),
    ):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, busy=busy: busy)
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        assert [level for level, _ in about("threads", None, tmp_path)] == levels


def write(root: Path, **files: str) -> Path:
    """Write files; '__' in a name stands for '/', '_DOT_' for '.'."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cores_and_memory_of_a_cgroup_v2(tmp_path: Path) -> None:
    files = {
        "proc__self__cgroup": "0::/job/step\n",
        "sys__fs__cgroup__job__step__cpu_DOT_max": "max 100000\n",
        "sys__fs__cgroup__job__cpu_DOT_max": "25000 50000\n",
        "sys__fs__cgroup__job__memory_DOT_max": "1000\n",
        "sys__fs__cgroup__job__memory_DOT_current": "700\n",
        "sys__fs__cgroup__job__memory_DOT_stat": "anon 500\ninactive_file 150\nactive_file 50\n",
        "sys__fs__cgroup__job__step__memory_DOT_max": "max\n",
        "sys__fs__cgroup__job__step__memory_DOT_current": "700\n",
    }
    root = write(tmp_path, **files)
    assert available_cores(root) == 0.5
    assert available_memory(10**9, root) == 450
    assert available_memory(100, root) == 100


def test_cores_and_memory_of_a_cgroup_v1(tmp_path: Path) -> None:
    files = {
        "proc__self__cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
        # A container sees its own limits at the top, not under the path that the host knows.
        "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_quota_us": "50000\n",
        "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_period_us": "100000\n",
        "sys__fs__cgroup__memory__memory_DOT_limit_in_bytes": "1000\n",
        "sys__fs__cgroup__memory__memory_DOT_usage_in_bytes": "400\n",
    }
    root = write(tmp_path, **files)
    assert available_cores(root) == 0.5
    assert available_memory(10**9, root) == 600
    write(tmp_path, **{"sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_quota_us": "-1\n"})
    assert available_cores(root) == available_cores(tmp_path / "no_cgroups")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_cores_left_by_affinity(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("cpuinfo", "unit"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile amx_bf16\n", "amx_bf16"),
        ("flags\t\t: fpu avx512f avx512_bf16\n", "avx512_bf16"),
        ("Features\t: fp asimd i8mm bf16 dgh\n", "bf16"),
        ("model name\t: bf16 wonder avx512_bf16\nflags\t\t: fpu avx2 avx512f avx512_bf16x\n", None),
        ("", None),
    ],
)
def test_bf16_in_hardware(cpuinfo: str, unit: str | None) -> None:
    assert bf16_unit(cpuinfo) == unit


def test_a_processor_without_bf16_is_warned_of(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for features, level in (("flags: avx512_bf16", "ok"), ("flags: avx2", "warning")):
        monkeypatch.setattr(doctor, "_processor_features", lambda features=features: features)
        assert about("precision", None, tmp_path)[0][0] == level


def test_a_missing_package_is_an_error(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"timm": "1", "segmentation-models-pytorch": "1", "accelerate": "1", "numpy": "2", "pandas": "3"}
    monkeypatch.setattr("qgbench.run.provenance.package_versions", lambda: versions)
    level, text = about("packages", None, tmp_path)[-1]
    assert level == "error"
    assert "pip install scipy" in text


@pytest.mark.parametrize(
    ("levels", "sound", "end"),
    [
        (["ok", "ok"], True, "errors: 0, warnings: 0"),
        (["ok", "warning"], True, "errors: 0, warnings: 1"),
        (["error", "warning", "error"], False, "errors: 2, warnings: 1"),
    ],
)
def test_findings_are_printed_as_they_come(levels: list[doctor.Level], sound: bool, end: str) -> None:
    file = io.StringIO()
    seen: list[int] = []

    def coming() -> Any:
        for number, level in enumerate(levels):
            seen.append(file.getvalue().count("text"))
            yield Finding("precision", level, f"[bold]text[/bold] {number} " + "and more " * 20)

    assert print_findings(coming(), Console(file=file, width=80)) is sound
    assert seen == list(range(len(levels)))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"{levels[0]:7} precision [bold]text[/bold] 0 and more")
    assert lines[-2:] == [end, "How long runs take here: qgbench suite plan small --measure"]


@pytest.mark.parametrize(("fp32", "bf16", "suits"), [(0.4, 0.25, "bf16"), (0.1, 0.32, "fp32")])
def test_the_faster_precision_is_said_to_suit(
    fp32: float, bf16: float, suits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "step_seconds", {"fp32": fp32, "bf16": bf16}.__getitem__)
    asked = [finding.text for finding in examine(None, tmp_path, measure=True) if finding.topic == "precision"]
    (told,) = (text for text in asked if "a step of protocol small" in text)
    assert f"{1000 * fp32:.0f} ms in fp32 and {1000 * bf16:.0f} ms in bf16, so --precision {suits} suits" in told


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_either_precision_is_timed_on_one_thread(precision: str) -> None:
    before = torch.get_num_threads()
    assert doctor.step_seconds(precision, steps=1) > 0
    assert torch.get_num_threads() == before
