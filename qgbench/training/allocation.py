"""Keep freed memory in the process, where glibc manages it.

A training step frees and takes the same large buffers again. By default glibc hands them back to the operating system
and asks anew, and each page is cleared and mapped again. Kept, they cost less processor time
(perf/step_speed.py) and change no number; the peak stays what it was, because it is reached in every step.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the allocator to keep what is freed; tell whether it does. Does nothing outside Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
