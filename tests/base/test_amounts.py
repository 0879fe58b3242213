"""Numbers of bytes in words."""

import pytest

from qgbench.base.amounts import amount


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (60 * 1024, "60.0 KiB"),
        (5 * 2**20 + 2**19, "5.5 MiB"),
        (2**30, "1.0 GiB"),
        (3000 * 2**30, "3000.0 GiB"),
    ],
)
def test_an_amount_is_never_shown_as_zero(count: int, text: str) -> None:
    assert amount(count) == text
