import pickle
from pathlib import Path

import pytest

from qgbench.errors import UserError
from qgbench.methods import Method
from qgbench.registry import load_method, method_names

ONE = """
from qgbench.methods import Batch, Method, MethodSettings, Step, segmentation_loss
from qgbench.baselines.mean_teacher import MeanTeacher


class Mine(Method):
    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        return Step(segmentation_loss(self.student(batch.x_l), batch.y_l))
"""


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", method_names())
def test_every_shipped_method_loads(name: str) -> None:
    kind = load_method(name)
    assert issubclass(kind, Method)
    assert kind.__module__ == f"qgbench.baselines.{name}"
    assert kind.__doc__
    assert kind.Settings() == kind.Settings()  # every setting has a default
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_the_papers_baselines_are_listed() -> None:
    assert {"supervised", "pseudo_label", "mean_teacher", "fixmatch"} <= set(method_names())
    assert method_names() == sorted(method_names())


@pytest.mark.parametrize(("given", "nearest"), [("fixmach", "fixmatch"), ("mean-teacher", "mean_teacher")])
def test_an_unknown_method_names_the_nearest_and_all(given: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown method '{given}'.*Did you mean '{nearest}'") as caught:
        load_method(given)
    assert all(name in str(caught.value) for name in method_names())


def test_a_file_that_defines_one_method_loads(tmp_path: Path) -> None:
    kind = load_method(written(tmp_path, ONE))
    assert kind.__name__ == "Mine"
    assert issubclass(kind, Method)
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    load_method(written(tmp_path, ONE))
    other = ONE.replace("Mine", "Yours") + "\n# a longer file, so that no stale bytecode fits\n"
    assert load_method(written(tmp_path, other)).__name__ == "Yours"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("class Mine(:\n", "SyntaxError"),
        ("import surely_not_installed\n", "ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("raise ValueError('no such luck')\n", "ValueError: no such luck"),
    ],
)
def test_a_broken_file_is_refused_with_its_cause(tmp_path: Path, text: str, cause: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError, match="cannot be imported") as caught:
        load_method(file)
    assert file in str(caught.value)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (ONE + ONE.replace("Mine", "Yours"), 2),
        (ONE + "\n\nclass Child(Mine):\n    pass\n", 2),
        ("from qgbench.methods import Method\n", 0),
        ("class Mine:\n    pass\n", 0),
    ],
    ids=["two", "parent and child", "only imported", "no subclass"],
)
def test_a_file_with_another_number_of_methods_than_one_is_refused(tmp_path: Path, text: str, count: int) -> None:
    with pytest.raises(UserError, match=f"defines {count} subclasses.*expected exactly one"):
        load_method(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.py does not exist"):
        load_method(str(tmp_path / "absent.py"))
