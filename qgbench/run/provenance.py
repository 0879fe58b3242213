"""Where numbers come from: versions, hardware, commit, memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from qgbench.engine.here import best_device

_PACKAGES = (
    "qgbench",
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
)
_LIMITING_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
)
_DECIDING_FLAGS = (  # instructions that libraries choose their kernels by
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16"),
    *("asimd", "sve", "bf16"),
)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a run's numbers; absent ones are left out."""
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def hardware() -> dict[str, Any]:
    """Return this machine's processor and what it can do, cores, memory in MiB, and accelerator."""
    found = {
        "processor": processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if best_device() == "cuda":
        found["accelerator"] = accelerator()
    return found


def accelerator() -> str:
    """Return the name of this machine's GPU."""
    import torch

    return torch.cuda.get_device_name()


def processor() -> str:
    """Return the name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """Return what decides which kernels compute: on rented machines, processors of several kinds have one name."""
    import torch

    found = [torch.backends.cpu.get_cpu_capability()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = [line.partition(":") for line in cpuinfo.read_text().split("\n\n")[0].splitlines()]
        known = {name.strip(): value.strip() for name, _, value in fields}
        found += [f"{name} {known[name]}" for name in ("cpu family", "model") if name in known]
        flags = known.get("flags", known.get("Features", "")).split()
        found += [flag for flag in _DECIDING_FLAGS if flag in flags]
    found += [f"{name}={os.environ[name]}" for name in _LIMITING_VARIABLES if name in os.environ]
    return ", ".join(found)


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, '+dirty' if it has changes; None outside of one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far, or of the accelerator if there is one, in MiB."""
    if best_device() == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
