"""Examine what a run would find on this machine: versions, devices, threads, memory, disk, data, weights.

Every part imports what it needs itself: a broken package becomes a finding and hides no other part.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgbench.base.amounts import amount
from qgbench.base.cores import usable_cores
from qgbench.base.errors import QGBenchError
from qgbench.base.paths import expanded

Level = Literal["ok", "warning", "error"]
Remarks = Iterator[tuple[Level, str]]

_GIB = 2**30
_LEAST_MEMORY = 4 * _GIB
_LEAST_DISK = 5 * _GIB
_BUSY_PERCENT = 50.0  # of all cores, by all processes
_PROTOCOL = "small"
_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}
_OPTIONAL = {"tensorboard": "shows training curves in a browser (--track tensorboard)"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    level: Level
    text: str


def examine(data_dir: Path | None, output: Path, measure: bool = False) -> Iterator[Finding]:
    """Yield what is found of everything that a run needs; a part that fails is of level 'error', with its cause.

    Nothing is fetched, and nothing is left behind: what is written to see whether it can be is removed.

    Parameters
    ----------
    data_dir : Path or None
        Folder that holds the data sets; QGBENCH_DATA where None.
    output : Path
        Folder of all runs.
    measure : bool
        Also time both precisions of the processor, which takes some seconds.
    """
    parts: list[tuple[str, Callable[[], Remarks]]] = [
        ("python", _python),
        ("qgbench", _qgbench),
        ("torch", _torch),
        ("packages", _packages),
        ("devices", _devices),
        ("precision", _precision),
        *([("precision", _measured)] if measure else []),
        ("threads", _threads),
        ("memory", _memory),
        ("output", lambda: _folder(output, "choose another --output")),
        ("cache", _cache),
        ("data", lambda: _data(data_dir)),
        ("weights", _weights),
        ("extras", _extras),
    ]
    for topic, part in parts:
        try:
            for level, text in part():
                yield Finding(topic, level, text)
        except QGBenchError as error:
            yield Finding(topic, "error", str(error))
        except Exception as error:
            yield Finding(topic, "error", f"{type(error).__name__}: {error}")


def print_findings(findings: Iterable[Finding], console: Console) -> bool:
    """Print findings as they come, then how many errors and warnings there were; return whether there was no error."""
    counts: dict[Level, int] = {"ok": 0, "warning": 0, "error": 0}
    for finding in findings:
        counts[finding.level] += 1
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(width=len("warning"))
        row.add_column(width=len("precision"))
        row.add_column(overflow="fold")
        row.add_row(Text(finding.level, style=_COLOURS[finding.level]), Text(finding.topic), Text(finding.text))
        console.print(row)
    worst: Level = "error" if counts["error"] else "warning" if counts["warning"] else "ok"
    console.print(Text(f"errors: {counts['error']}, warnings: {counts['warning']}", style=_COLOURS[worst]))
    console.print(f"How long runs take here: qgbench suite plan {_PROTOCOL} --measure", highlight=False)
    return not counts["error"]


def _python() -> Remarks:
    yield "ok", f"{sys.version.split()[0]}, {sys.executable}"


def _qgbench() -> Remarks:
    import qgbench

    folder = Path(qgbench.__file__).resolve().parent
    try:
        origin = json.loads(importlib.metadata.distribution("qgbench").read_text("direct_url.json") or "{}")
        is_editable = origin.get("dir_info", {}).get("editable", False)
    except importlib.metadata.PackageNotFoundError:
        is_editable = False
    if (folder.parent / "pyproject.toml").is_file():
        kind = "editable install of the checkout" if is_editable else "checkout"
        yield "ok", f"{qgbench.__version__}, {kind} {folder.parent}"
        from qgbench.run.provenance import git_commit

        yield "ok", f"commit {git_commit() or 'unknown: no git repository'}"
    else:
        yield "ok", f"{qgbench.__version__}, installed in {folder}"


def _torch() -> Remarks:
    import torch

    if torch.version.cuda:
        build = f"built for CUDA {torch.version.cuda}"
    elif torch.version.hip:
        build = f"built for ROCm {torch.version.hip}"
    else:
        build = "built without CUDA"
    yield "ok", f"{torch.__version__}, {build}"
    if Path("/proc/driver/nvidia/version").is_file() and not torch.cuda.is_available():
        yield (
            "warning",
            "an NVIDIA driver is installed, but this torch cannot use it: runs go to the processor. Install a torch "
            "built for a CUDA version that the driver supports (nvidia-smi names it).",
        )


def _packages() -> Remarks:
    from qgbench.run.provenance import package_versions

    versions = package_versions()
    yield "ok", ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("qgbench", "torch"))
    needed = ("segmentation-models-pytorch", "timm", "accelerate", "numpy", "pandas", "scipy")
    if missing := [name for name in needed if name not in versions]:
        yield "error", f"not installed: {', '.join(missing)}. Run: pip install {' '.join(missing)}"


def _devices() -> Remarks:
    import torch

    from qgbench.run.provenance import hardware

    machine = hardware()
    yield "ok", f"cpu: {machine['processor']}, {machine['memory_mib'] / 1024:.1f} GiB, {machine['system']}"
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield "ok", f"cuda:{index}: {card.name}, {amount(card.total_memory)}"
    if torch.backends.mps.is_available():
        yield "ok", "mps: the processor's own GPU"


def _precision() -> Remarks:
    from qgbench.engine.here import best_device

    unit = bf16_unit(_processor_features())
    if unit:
        yield "ok", f"cpu: fp32, and bf16 in hardware ({unit}); fp16 needs a GPU"
    else:
        yield (
            "warning",
            "cpu: fp32; bf16 works, but this processor has no unit for it and is slow in it: --precision fp32 may be "
            "faster, and is only compared with other fp32 runs",
        )
    device = best_device()
    if device != "cpu":
        able = [precision for precision in ("fp32", "bf16", "fp16") if _computes(device, precision)]
        yield ("ok" if "bf16" in able else "warning"), f"{device}: {', '.join(able) or 'cannot compute'}"


def _measured() -> Remarks:
    taken = {precision: step_seconds(precision) for precision in ("fp32", "bf16")}
    told = " and ".join(f"{1000 * seconds:.0f} ms in {precision}" for precision, seconds in taken.items())
    yield (
        "ok",
        f"cpu: a step of protocol {_PROTOCOL} takes {told}, so --precision {min(taken, key=taken.__getitem__)} suits "
        "this processor; runs are compared with those of the same precision",
    )


def step_seconds(precision: str, steps: int = 3) -> float:
    """Return the processor seconds of a supervised step, without its data, on one thread: the median of some.

    Parameters
    ----------
    precision : 'fp32' or 'bf16'
    steps : int
        How many are timed, after one that is not.
    """
    import torch

    from qgbench.archs.build import build_network
    from qgbench.spec.protocol import load_protocol

    known, threads, taken = load_protocol(_PROTOCOL), torch.get_num_threads(), []
    network = build_network(known.arch, known.encoder, "none", known.decoder_channels, known.size).train()
    image = torch.rand(known.train.batch_labelled, 3, known.size, known.size)
    torch.set_num_threads(1)
    try:
        for _ in range(steps + 1):
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = network(image).mean()
            loss.backward()
            taken.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken[1:])


def _processor_features() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        return cpuinfo.read_text()
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "hw.optional.arm.FEAT_BF16"], capture_output=True, text=True)
        return "Features: bf16" if asked.stdout.strip() == "1" else ""
    return ""


def bf16_unit(cpuinfo: str) -> str | None:
    """Return the processor's instructions that multiply in bf16: 'amx_bf16', 'avx512_bf16', 'bf16' (ARM) or None.

    Parameters
    ----------
    cpuinfo : str
        Content of /proc/cpuinfo.
    """
    features: set[str] = set()
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            features.update(words.split())
    return next((unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if unit in features), None)


def _computes(device: str, precision: str) -> bool:
    """Return whether a convolution can be computed and differentiated under autocast."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    try:
        if device == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return False
        layer = torch.nn.Conv2d(3, 4, 3).to(device)
        with torch.autocast(device, dtype, enabled=precision != "fp32"):
            result = layer(torch.ones(1, 3, 8, 8, device=device))
        result.float().sum().backward()
        return bool(result.isfinite().all())
    except RuntimeError:
        return False


def _threads() -> Remarks:
    import psutil

    from qgbench.spec.protocol import load_protocol

    available = available_cores()
    wanted = load_protocol(_PROTOCOL).threads
    variables = ", ".join(
        f"{name} {os.environ.get(name) or 'not set'}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    )
    yield (
        "ok",
        f"{os.cpu_count()} cores, {available:g} for this process; protocol {_PROTOCOL} asks for {wanted} threads; "
        f"{variables}",
    )
    if wanted > available:
        yield (
            "warning",
            f"protocol {_PROTOCOL} asks for {wanted} threads, but affinity or cgroup leave {available:g} cores to this "
            f"process: give --threads {max(1, int(available))} (runs with other threads differ in their last bits)",
        )
    busy = psutil.cpu_percent(interval=0.3)
    if busy > _BUSY_PERCENT and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        yield (
            "warning",
            f"the cores are {busy:.0f} % busy and OMP_WAIT_POLICY is not PASSIVE: threads that wait for each other "
            "burn cores that others need. Set OMP_WAIT_POLICY=PASSIVE; it changes no result",
        )


def available_cores(root: Path = Path("/")) -> float:
    """Return how many cores this process may use, by its affinity and the quota of its cgroups.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    limits = [float(usable_cores())]
    for folder in _cgroups("cpu", root):
        if quota := _numbers(folder / "cpu.max"):  # cgroup v2: '150000 100000', or 'max 100000' without a limit
            limits += [quota[0] / quota[1]] if len(quota) == 2 else []
        elif (quota := _numbers(folder / "cpu.cfs_quota_us")) and quota[0] > 0:  # cgroup v1: -1 without a limit
            limits.append(quota[0] / _numbers(folder / "cpu.cfs_period_us")[0])
    return min(limits)


def available_memory(free: int, root: Path = Path("/")) -> int:
    """Return how many bytes this process may still take: what is free on the machine, and what its cgroups leave.

    Parameters
    ----------
    free : int
        Free memory of the machine, bytes.
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    limits = [free]
    for folder in _cgroups("memory", root):
        for most, used, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),  # cgroup v2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # cgroup v1
        ):
            if (limit := _numbers(folder / most)) and (taken := _numbers(folder / used)):
                # Cached files count as used, but are dropped as soon as a program wants their place.
                limits.append(max(0, limit[0] - taken[0] + _entry(folder / "memory.stat", reclaimable)))
    return min(limits)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all above it, for cgroup v2 and v1."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mounted / controllers if controllers else mounted
        own = Path(place.lstrip("/"))
        yield from (top / above for above in (own, *own.parents))


def _numbers(file: Path) -> list[int]:
    """Return the whole numbers in a file, other words left out; [] without the file."""
    try:
        return [int(word) for word in file.read_text().split() if word.lstrip("-").isdigit()]
    except OSError:
        return []


def _entry(file: Path, name: str) -> int:
    """Return the number behind a name in a file of lines 'name number'; 0 without it."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(line[1]) for line in lines if line and line[0] == name), 0)


def _memory() -> Remarks:
    import psutil

    free = available_memory(psutil.virtual_memory().available)
    if free < _LEAST_MEMORY:
        yield "warning", f"{amount(free)} free; a run wants {amount(_LEAST_MEMORY)}. End other programs"
    else:
        yield "ok", f"{amount(free)} free"


def _cache() -> Remarks:
    from qgbench.data.cache import CACHE_VARIABLE, default_cache_dir

    yield from _folder(default_cache_dir(), f"set {CACHE_VARIABLE} to another folder")


def _folder(folder: Path, remedy: str) -> Remarks:
    """Yield whether a file can be written into a folder, and what its disk has free."""
    folder = expanded(folder).absolute()
    try:
        free = _free_after_writing(folder)
    except OSError as error:
        yield "error", f"{folder} cannot be written ({error.strerror or error}): {remedy}"
        return
    if free < _LEAST_DISK:
        yield "warning", f"{folder}: {amount(free)} free, below {amount(_LEAST_DISK)}: {remedy}"
    else:
        yield "ok", f"{folder}: can be written, {amount(free)} free"


def _free_after_writing(folder: Path) -> int:
    """Write a file, remove it again with every folder made for it, and return the free bytes of the disk."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with ExitStack() as undo:
        for place in reversed(made):
            place.mkdir(exist_ok=True)
            undo.callback(_remove_if_empty, place)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return shutil.disk_usage(folder).free


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):  # a run that starts meanwhile keeps its folder
        folder.rmdir()


def _data(data_dir: Path | None) -> Remarks:
    from qgbench.data.cards import DATA_VARIABLE
    from qgbench.data.inventory import inventory
    from qgbench.data.readers import DRAWN

    given = data_dir or os.environ.get(DATA_VARIABLE)
    entries = inventory(data_dir)
    for entry in entries:
        name, where = entry.card.name, "" if given is None else f" in {expanded(given) / entry.card.name}"
        if entry.card.name in DRAWN:
            yield "ok", f"{name}: drawn on demand, needs no files"
        elif entry.state == "ready":
            yield "ok", f"{name}: {entry.images} images{where}"
        elif entry.state == "incomplete":
            yield "warning", f"{name}: {entry.images} images{where}; its card expects {entry.card.images}"
        elif entry.state == "broken":
            yield "error", f"{name}: {entry.remark}"
    absent = ", ".join(entry.card.name for entry in entries if entry.state == "absent")
    how = "qgbench data list says how to get each; they belong at DIR/NAME/images and DIR/NAME/masks"
    if given is None:
        yield "ok", f"{DATA_VARIABLE} is not set, and no --data-dir given. For {absent}: {how}"
    elif absent:
        found = any(entry.card.name not in DRAWN and entry.state != "absent" for entry in entries)
        yield ("ok" if found else "warning"), f"not in {given}: {absent}; {how}"


def _weights() -> Remarks:
    from huggingface_hub import try_to_load_from_cache
    from segmentation_models_pytorch.encoders import encoders
    from timm import get_pretrained_cfg

    from qgbench.archs.weights import PACKAGED, packaged_state
    from qgbench.spec.protocol import load_protocol, protocol_names

    packaged: dict[str, list[str]] = {}
    fetched: dict[tuple[str, str, str | None], list[str]] = {}  # name, hub repository, revision -> protocols
    for protocol in map(load_protocol, protocol_names()):
        for part, name, weights in (
            ("encoder", protocol.encoder, protocol.encoder_weights),
            ("backbone of g", protocol.quality.backbone, protocol.quality.backbone_weights),
        ):
            use = f"{protocol.name} ({part})"
            if weights == "imagenet" and name in PACKAGED:
                packaged.setdefault(name, []).append(use)
            elif weights == "imagenet" and part == "encoder" and name in encoders:
                hub = encoders[name]["pretrained_settings"]["imagenet"]
                fetched.setdefault((name, hub["repo_id"], hub["revision"]), []).append(use)
            elif weights == "imagenet":
                config = get_pretrained_cfg(name)
                repository = (config.hf_hub_id if config else None) or f"timm/{name}"
                fetched.setdefault((name, repository, None), []).append(use)
    for name, uses in packaged.items():
        tensors = len(packaged_state(name))
        yield "ok", f"{name}: installed by pip, {tensors} tensors load; used by {', '.join(uses)}"
    for (name, repository, revision), uses in fetched.items():
        cached = isinstance(try_to_load_from_cache(repository, "model.safetensors", revision=revision), str)
        where = "in the hub's cache" if cached else "not in the hub's cache: its first run fetches them"
        yield ("ok" if cached else "warning"), f"{name}: {where} ({repository}); used by {', '.join(uses)}"


def _extras() -> Remarks:
    for package, use in _OPTIONAL.items():
        found = importlib.util.find_spec(package) is not None
        state = "installed" if found else f"not installed (pip install 'qgbench[{package}]')"
        yield "ok", f"{package}: {state}; optional, {use}"
