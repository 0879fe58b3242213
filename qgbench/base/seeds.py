"""Seeds of random streams: one for each purpose and setting, so that no two streams draw the same numbers."""

import hashlib

LARGEST_SEED = 10**9  # index of a seed; against slips of the pen


def salted(purpose: str, *parts: str | int) -> int:
    """Return the seed of a stream, in [0, 2**63): a hash of what it is for and of what tells its runs apart.

    Parameters
    ----------
    purpose : str
        What the numbers are drawn for: ``weights``, ``order of labelled images``.
    parts : str or int
        Whatever the stream may depend on: data set, regime, index of the seed.
    """
    text = "\n".join([purpose, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
