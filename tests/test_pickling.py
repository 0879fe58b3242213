"""What travels to other processes: methods, specs, records and data survive pickling into a spawned process.

Workers of a pool and of Ray are processes that share nothing with the one that starts them: they import anew what they
unpickle. A class is pickled as the name of its module and its own name, so the module must be importable there. Methods
that ship are in `qgbench.baselines`, a package like any other. A method in a file of one's own is loaded by its path
into a module whose name only the loading process knows: another one cannot import it, and neither the class nor an
instance unpickles there. Such a method therefore travels as its `RunSpec`, which holds the path, and the worker loads
the class itself.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qgbench.base.errors import UserError
from qgbench.data.cache import prepare
from qgbench.data.experiment import ImageSet, TrainingData, training_data
from qgbench.data.readers import open_source
from qgbench.data.splits import load_split
from qgbench.methods import Batch, Method
from qgbench.plugins.registry import load, method_names, source
from qgbench.quality.guide import Guide
from qgbench.run.record import read_images, read_record
from qgbench.spec.protocol import Protocol, load_protocol, protocol_names
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.training.objective import Objective
from qgbench.trust.toys import ToySegmenter, toy_data
from tests.baselines import make_batch

SECONDS = 300  # a worker that does not answer fails its test instead of hanging all

OWN_METHOD = """
from qgbench.methods.losses import segmentation_loss
from qgbench.methods import Batch, Method, MethodSettings, Step


class Own(Method):
    pseudo_labels = False

    class Settings(MethodSettings):
        share: float = 1.0

    settings: Settings

    def step(self, batch: Batch) -> Step:
        return Step(self.settings.share * segmentation_loss(self.task, self.student(batch.x_l), batch.y_l))
"""

Elsewhere = Callable[..., Any]


def _answer(function: Callable[..., Any], arguments: bytes, threads: int) -> bytes:
    """In the worker: other numbers of threads would give other last bits."""
    torch.set_num_threads(threads)
    return pickle.dumps(function(*pickle.loads(arguments)))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """Call a function of this module in a spawned process and return what it returns.

    Arguments and results travel as plain pickles, as Ray's do: the pipe of a pool would put tensors into memory that
    both processes share.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        job = pool.submit(_answer, function, pickle.dumps(arguments), torch.get_num_threads())
        return pickle.loads(job.result(SECONDS))

    yield call
    pool.shutdown(wait=False, cancel_futures=True)
    for child in set(multiprocessing.active_children()) - others:
        child.join(10)
        child.kill()


def whereabouts() -> tuple[int, str]:
    """The process, and the file that this module was imported from."""
    return multiprocessing.current_process().pid or 0, __file__


def same(value: Any) -> Any:
    return value


def losses(method: Method, batch: Batch) -> dict[str, float]:
    """Every part of the loss, with dropout."""
    torch.manual_seed(7)
    return {name: float(value) for name, value in Objective(method, Guide([]))(batch, None, 0)[1].items()}


def trained(name: str) -> Method:
    """A method after one step."""
    torch.manual_seed(0)
    kind = load("method", name)
    method = kind(ToySegmenter, kind.Settings()).train()
    optimiser = torch.optim.AdamW(method.students.parameters(), lr=1e-2)
    Objective(method, Guide([]))(make_batch(), None, 0)[0].backward()
    optimiser.step()
    method.update_teacher(0.9)
    return method


def look_at_spec(spec: RunSpec) -> tuple[str, Protocol]:
    return spec.id, spec.resolve()


def look_at_class(kind: type[Method], name: str) -> tuple[bool, dict[str, Any]]:
    return kind is load("method", name), kind.Settings().model_dump()


def look_at_method(method: Method, batch: Batch) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Tensors, and the loss."""
    state = {name: value.numpy().copy() for name, value in method.state_dict().items()}
    return state, losses(method, batch)


def look_at_data(data: TrainingData) -> dict[str, Any]:
    """Ids, and every pixel."""

    def look(images: ImageSet) -> tuple[list[str], list[bytes]]:
        return images.ids, [part.numpy().tobytes() for batch in images.batches() for part in batch]

    return {"alone": data.unlabelled_are_labelled} | {
        name: look(getattr(data, name)) for name in ("labelled", "unlabelled", "val")
    }


def spec_of(method: str) -> RunSpec:
    fields = {"protocol": "smoke", "dataset": "phantom", "regime": "n12", "arch": "unet", "seed": 0, "threads": 1}
    fields |= {"encoder": "tf_efficientnet_lite0", "precision": "fp32", "device": "cpu"}
    return RunSpec.model_validate(
        fields | {"method": method, "source": source("method", method), "overrides": {"train.steps": 2}}
    )


def test_the_worker_is_another_process_and_imports_this_very_file(elsewhere: Elsewhere) -> None:
    """Not a package of the same name that some distribution installs (a few have a top-level `tests`)."""
    pid, file = elsewhere(whereabouts)
    assert pid != whereabouts()[0]
    assert Path(file).samefile(__file__)


@pytest.mark.parametrize("name", method_names())
def test_the_class_of_every_registered_method_is_the_same_there(name: str, elsewhere: Elsewhere) -> None:
    kind = load("method", name)
    assert elsewhere(look_at_class, kind, name) == (True, kind.Settings().model_dump())
    assert elsewhere(same, kind) is kind


@pytest.mark.parametrize("name", method_names())
def test_every_method_in_mid_training_gives_the_same_loss_there(name: str, elsewhere: Elsewhere) -> None:
    method, batch = trained(name), make_batch()
    theirs = elsewhere(look_at_method, method, batch)
    ours = look_at_method(method, batch)
    assert set(theirs[0]) == set(ours[0])
    for key, value in ours[0].items():
        np.testing.assert_array_equal(theirs[0][key], value, err_msg=key)
    assert theirs[1] == ours[1]


def test_specs_and_protocols_are_equal_there_and_back(elsewhere: Elsewhere) -> None:
    for name in protocol_names():
        assert elsewhere(same, load_protocol(name)) == load_protocol(name)
    for method in method_names():
        spec = spec_of(method)
        assert elsewhere(same, spec) == spec
        assert elsewhere(look_at_spec, spec) == (spec.id, spec.resolve())


def test_training_data_hold_the_same_pixels_there(elsewhere: Elsewhere, cache_dir: Path) -> None:
    """In memory, and mapped from the cache: the worker gets the arrays and needs no file."""
    source = open_source("phantom")
    mapped = prepare(source, load_protocol("smoke").size, cache_dir)
    assert isinstance(mapped.images, np.memmap)
    for data in (toy_data(), training_data(mapped, [], load_split(source), Regime.parse("n12"), "phantom", 0)):
        assert len(data.labelled) < len(data.unlabelled)
        assert elsewhere(look_at_data, data) == look_at_data(data)


def test_a_mistake_arrives_as_the_same_error(elsewhere: Elsewhere) -> None:
    with pytest.raises(UserError, match=r"unknown method 'fixmach'\. Did you mean 'fixmatch'") as caught:
        elsewhere(load, "method", "fixmach")
    assert caught.value.exit_code == 2


def test_the_class_of_a_file_does_not_travel(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """The reason for sending a RunSpec. Should this test fail one day, the docstring above is out of date."""
    file = tmp_path / "unseen.py"
    file.write_text(OWN_METHOD)
    with pytest.raises(ModuleNotFoundError, match="qgbench_method_unseen"):
        elsewhere(same, load("method", str(file)))


@pytest.mark.slow
def test_a_method_of_a_file_travels_as_its_spec_and_runs_there(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """The worker gives the outcome that this process gives, and the record survives the way there and back."""
    from qgbench.run.carry_out import run

    file = tmp_path / "own.py"
    file.write_text(OWN_METHOD)
    spec = spec_of(str(file))
    theirs = elsewhere(run, spec, tmp_path / "theirs")
    ours = run(spec, tmp_path / "ours")
    assert theirs.record == read_record(theirs.folder)
    assert elsewhere(same, theirs.record) == theirs.record
    assert theirs.record.spec.method == str(file)
    assert theirs.record.steps == 2
    assert theirs.record.summary == ours.record.summary
    assert read_images(theirs.folder / "images.csv").equals(read_images(ours.folder / "images.csv"))
