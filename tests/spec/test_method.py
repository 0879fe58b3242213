"""What a method that ships declares is read from its source; the class that Python makes of all of it is the judge."""

import pytest

from qgbench.plugins.registry import load, method_names
from qgbench.spec.method import declared

FACTS = ("networks", "pseudo_labels", "needs_features", "ema_decay", "ema_buffers")


@pytest.mark.parametrize("name", method_names())
def test_the_source_declares_what_the_class_does(name: str) -> None:
    said, whole = declared(name), load("method", name)
    for fact in ("__doc__", "__module__", "__qualname__", *FACTS):
        assert getattr(said, fact) == getattr(whole, fact)
    assert said.Settings.model_json_schema() == whole.Settings.model_json_schema()
    assert said.Settings.before() == whole.Settings.before()
    settings = whole.Settings()
    assert said.archs(settings) == whole.archs(settings)
    assert said.keeps_teacher(settings) == whole.keeps_teacher(settings)


@pytest.mark.parametrize(("labels_from", "keeps"), [("teacher", True), ("student", False)])
def test_whether_there_is_a_teacher_may_depend_on_settings(labels_from: str, keeps: bool) -> None:
    kind = declared("pseudo_label")
    assert kind.keeps_teacher(kind.Settings.model_validate({"labels_from": labels_from})) == keeps
