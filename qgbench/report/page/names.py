"""File names of pages: readable, unique, and nothing of what a record says can leave the folder."""

import hashlib
import re
from collections.abc import Iterable

from qgbench.report.collect import Run
from qgbench.report.contrasts import Contrast
from qgbench.spec.arm import ArmName
from qgbench.spec.run_spec import Setting

_LONGEST = 72


def slug(*parts: object) -> str:
    """Return parts as ``ph2-n28-grouped-fixmatch-0a1b2c3d``: ASCII letters, digits and dashes, then a hash of all."""
    texts = [str(part) for part in parts]
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(texts).lower()).strip("-")[:_LONGEST].strip("-")
    digest = hashlib.sha256(_joined(texts).encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable}-{digest}" if readable else digest


def _joined(texts: Iterable[str]) -> str:
    """Return texts joined so that no two lists give the same."""
    return "".join(f"{len(text)}:{text}" for text in texts)


def run_slug(run: Run) -> str:
    """Return the name of a run's page and of its folder of data; a cell and seed have one run."""
    cell = run.record.spec
    name = (cell.method, cell.addon, cell.variant, f"k{cell.seed}")
    return slug(cell.dataset, cell.regime, cell.arch, *name, cell.encoder, cell.protocol, cell.protocol_version)


def contrast_slug(setting: Setting, contrast: Contrast) -> str:
    """Return the name of a contrast's page."""
    return slug(
        setting.dataset,
        setting.regime,
        setting.arch,
        *_ordered(contrast.name),
        "vs",
        *_ordered(contrast.reference),
        contrast.kind,
        setting.encoder,
        setting.protocol,
        setting.protocol_version,
    )


def _ordered(name: ArmName) -> tuple[str, str, str]:
    return name.method, name.addon, name.variant


def visible(text: str) -> str:
    """Return a text with codes for characters that do not show, or that reorder others (controls, overrides)."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"⟨U+{ord(char):04X}⟩" for char in text)
