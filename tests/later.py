"""A setting that comes when there are records already, for tests of what must not change then."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from qgbench.quality.predictor import PredictorCard
from qgbench.spec.protocol import Protocol, load_protocol
from qgbench.spec.settings import Before, Settings


@contextmanager
def later_setting(kind: type[Settings], default: float = 0.5, before: float | None = None) -> Iterator[None]:
    """Give a class of settings another field, ``later``, inside the block; `before` declares what was done before."""
    annotation: Any = float if before is None else Annotated[float, Before(before)]
    fields = kind.__pydantic_fields__
    fields["later"] = FieldInfo.from_annotated_attribute(annotation, default)
    try:
        _rebuild(kind)
        yield
    finally:
        del fields["later"]
        _rebuild(kind)


def _rebuild(kind: type[Settings]) -> None:
    for model in (kind, Protocol, PredictorCard):
        model.model_rebuild(force=True)
    load_protocol.cache_clear()
