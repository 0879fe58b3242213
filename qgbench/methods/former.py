"""Plug-ins written for qgbench 0.1: which lines of theirs mean something else now, and what to write there."""

import ast
import inspect
import linecache
import re
import traceback
from collections.abc import Iterator

import torch

from qgbench.base.errors import UserError

_TERM = "write Term(loss, label) with what self.label or self.pseudo_label gives: it has its image"
_PROB = "write label.prob for its probabilities: a label holds them, its image, view and network"
# What Python, torch or qgbench say of such a line, and below it the line; what is true now. The first that fits counts.
_ADVICE = (
    (r"Term\(\)|Term\.__init__", _TERM),
    (r"'Term' object has no attribute 'image'", "write term.label.image"),
    (r"PseudoLabel", _PROB),
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

    It tells of the other lines of the file, too, that can be told by their form.

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
    slip = isinstance(error, AttributeError) and not hasattr(torch.Tensor, error.name or "")
    if slip and said.startswith("'PseudoLabel'"):
        return None  # in 0.1 a label was a tensor, which has no such attribute either
    advice = next((text for pattern, text in _ADVICE if re.search(pattern, said)), None)
    if advice is None:
        return None
    others = dict(_told_by_form("".join(linecache.getlines(line.filename))))
    more = "".join(
        f"; line {number} too, `{text}`: {told}"
        for number, (text, told) in sorted(others.items())
        if number != line.lineno
    )
    return UserError(f"{line.filename}, line {line.lineno}: `{line.line}` is of qgbench 0.1; {advice}{more}.")


def _told_by_form(code: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield lines that were right in 0.1 alone: number, the line, and what to write there."""
    for function in ast.walk(ast.parse(code)):
        if isinstance(function, ast.FunctionDef):
            nodes = list(ast.walk(function))
            labels = {name for node in nodes if (name := _label_made_in(node))}
            for node in nodes:
                match node:
                    case (
                        ast.Call(func=ast.Name(id="Term"), args=[_, _, _, *_])
                        | ast.Call(func=ast.Name(id="Term"), keywords=[ast.keyword(arg="image"), *_])
                    ):
                        advice = _TERM
                    case ast.BinOp(left=ast.Name(id=name)) | ast.Compare(left=ast.Name(id=name)) if name in labels:
                        advice = _PROB
                    case _:
                        continue
                yield node.lineno, (code.splitlines()[node.lineno - 1].strip(), advice)


def _label_made_in(node: ast.AST) -> str:
    """Return the name that a statement gives to a label; '' if it makes none."""
    match node:
        case ast.Assign([ast.Name(id=name)], ast.Call(ast.Attribute(attr="label" | "pseudo_label"))):
            return name
    return ""
