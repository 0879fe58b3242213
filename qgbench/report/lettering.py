"""Text in the font of all pictures, DejaVu Sans: only characters that it has, and no more of them than fit."""

from functools import cache


@cache
def _characters() -> frozenset[int]:
    """Return the codes of the characters that the font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def printable(text: str) -> str:
    r"""Return a text whose characters that the font lacks are codes, ``\u65e5``; line breaks are among them."""
    known = _characters()
    return "".join(letter if ord(letter) in known else f"\\u{ord(letter):04x}" for letter in text)


def shortened(text: str, length: int) -> str:
    """Return a text; if it is longer than `length` characters, an ellipsis stands in the place of its middle."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"
