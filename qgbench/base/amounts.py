"""Numbers of bytes, written for people."""

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def amount(count: float) -> str:
    """Return a number of bytes in the largest unit of which there is one: ``3.9 GiB``, ``60.0 KiB``, ``12 bytes``."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
