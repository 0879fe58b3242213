"""Plug-ins written for qgbench 0.1: which line of theirs means something else now, and what to write there."""

import inspect
import re
import traceback

from qgbench.base.errors import UserError

# What Python, torch or qgbench say of such a line, and below it the line; what is true now. The first that fits counts.
_ADVICE = (
    (
        r"Term\(\)|Term\.__init__",
        "write Term(loss, label) with what self.label or self.pseudo_label gives: it has its image",
    ),
    (r"'Term' object has no attribute 'image'", "write term.label.image"),
    (r"PseudoLabel", "write label.prob for its probabilities: a label holds them, its image, view and network"),
    (r"'labelled_by'|'labels'", "write label.network"),
    (
        r"network\.decode\(|must be the same as input size.*\n.*decode\(",
        "write network.head(network.decode(features)) for logits",
    ),
)


def own_line(error: BaseException, code: type) -> traceback.FrameSummary | None:
    """Return the last line of a class's own file that an exception passed; None if it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        file = inspect.getsourcefile(code)
    except TypeError:  # typed at a prompt
        return None
    return next((frame for frame in reversed(frames) if frame.filename == file), None)


def refusal(error: Exception, code: type) -> UserError | None:
    """Return what to tell whoever wrote a line that was right in qgbench 0.1; None where that is not why it failed.

    Parameters
    ----------
    error : Exception
        What a step raised.
    code : type
        The method's class.
    """
    line = own_line(error, code)
    if line is None:
        return None
    said = f"{error}\n{line.line}"
    advice = next((text for pattern, text in _ADVICE if re.search(pattern, said)), None)
    if advice is None:
        return None
    return UserError(f"{line.filename}, line {line.lineno}: `{line.line}` is of qgbench 0.1; {advice}.")
