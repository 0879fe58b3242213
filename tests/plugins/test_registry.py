import hashlib
import importlib
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qgbench.archs.registry import ARCHS
from qgbench.base.errors import UserError
from qgbench.methods import Method
from qgbench.plugins.registry import PluginImportError, catalogue, load, method_names, resolve, source

ONE = """
from qgbench.methods.losses import segmentation_loss
from qgbench.methods import Batch, Method, MethodSettings, Step
from qgbench.baselines.mean_teacher import MeanTeacher


class Mine(Method):
    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l))
"""


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", method_names())
def test_every_shipped_method_loads(name: str) -> None:
    kind = load("method", name)
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
        load("method", given)
    assert all(name in str(caught.value) for name in method_names())


def test_a_file_that_defines_one_method_loads(tmp_path: Path) -> None:
    kind = load("method", written(tmp_path, ONE))
    assert kind.__name__ == "Mine"
    assert issubclass(kind, Method)
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    load("method", written(tmp_path, ONE))
    other = ONE.replace("Mine", "Yours") + "\n# a longer file, so that no stale bytecode fits\n"
    assert load("method", written(tmp_path, other)).__name__ == "Yours"


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
        load("method", file)
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
        load("method", written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.py does not exist"):
        load("method", str(tmp_path / "absent.py"))


# A plug-in's code is found as an installed package's is: through metadata beside it on the path.
ARCH = """
from torch import nn
from qgbench.archs.registry import ARCHS, Arch
from qgbench.archs.registry import Arch as Other

unet = ARCHS["unet"]


def build(encoder, weights, decoder_channels, size):
    return nn.Identity()


narrow = Arch(build, "narrow", "nowhere", "nothing")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a package of one module, with entry points: ``package("lab", text, methods="soft = lab:Mine")``."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    names = set()

    def install(name: str, text: str, methods: str = "", archs: str = "") -> Path:
        names.add(name)
        info = site / f"{name}-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[qgbench.methods]\n{methods}\n[qgbench.archs]\n{archs}\n")
        (site / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return site / f"{name}.py"

    yield install
    for name in names:
        sys.modules.pop(name, None)


def test_a_class_is_named_by_file_or_module(tmp_path: Path, package: Callable[..., Path]) -> None:
    file = written(tmp_path, ONE + ONE.replace("Mine", "Yours"))
    assert load("method", f"{file}:Yours").__name__ == "Yours"
    package("two_of_us", ONE + ONE.replace("Mine", "Yours"))
    kind = load("method", "two_of_us:Mine")
    assert pickle.loads(pickle.dumps(kind)) is kind
    with pytest.raises(UserError, match=r"two_of_us 'Miner'. Did you mean 'Mine'\? Known: Mine, Yours"):
        load("method", "two_of_us:Miner")
    with pytest.raises(UserError, match=r"a subclass of qgbench.methods.Method is expected"):
        load("method", "two_of_us:Batch")
    with pytest.raises(UserError, match=r"a subclass of qgbench.methods.Method is expected"):
        load("method", "two_of_us:Method")
    with pytest.raises(UserError, match="there is no module two_of_them"):
        load("method", "two_of_them:Mine")
    with pytest.raises(UserError, match=r"there is no module two_of_us\.inner"):
        load("method", "two_of_us.inner:Mine")


def test_two_methods_in_a_file_are_told_apart_by_their_references(tmp_path: Path) -> None:
    file = written(tmp_path, ONE + ONE.replace("Mine", "Yours"))
    with pytest.raises(UserError) as caught:
        load("method", file)
    assert f"{file}:Mine, {file}:Yours" in str(caught.value)


def test_files_of_one_name_do_not_take_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = load("method", written(tmp_path, ONE))
    second = load("method", written(tmp_path / "other", ONE))
    assert pickle.loads(pickle.dumps(first)) is first
    assert pickle.loads(pickle.dumps(second)) is second


def test_an_entry_point_is_a_name_like_any_other(package: Callable[..., Path]) -> None:
    package("lab", ONE, methods="soft = lab:Mine")
    assert load("method", "soft").__name__ == "Mine"
    assert resolve("method", "soft") == "soft"
    with pytest.raises(UserError, match=r"Did you mean 'soft'\? Known: .*fixmatch.*soft"):
        load("method", "sofd")


def test_listing_names_imports_nothing_of_a_package(package: Callable[..., Path]) -> None:
    package("explosive", "raise RuntimeError('imported')", methods="boom = explosive:Mine")
    assert "boom" in {entry.name for entry in catalogue("method").entries}
    assert load("method", "fixmatch")
    assert "explosive" not in sys.modules


def test_a_package_that_cannot_be_imported_shows_its_own_traceback(package: Callable[..., Path]) -> None:
    file = package(
        "explosive", "def inner():\n    raise RuntimeError('no such luck')\n\n\ninner()\n", "boom = explosive:A"
    )
    with pytest.raises(UserError) as caught:
        load("method", "boom")
    first, *others = str(caught.value).splitlines()
    assert first == (
        "method 'boom' of package explosive 1.2 (explosive:A) cannot be imported: RuntimeError: no such luck"
    )
    told = "\n".join(others)
    assert f'File "{file}", line 5' in told
    assert f'File "{file}", line 2, in inner' in told
    assert "registry.py" not in told
    assert "importlib" not in told


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("from qgbench.cutmix import paste", "qgbench.methods.cutmix"),
        ("from qgbench.spec import Settings", "qgbench.spec.settings"),
        ("from qgbench.errors import UserError", "qgbench.base.errors"),
    ],
)
def test_an_import_of_qgbench_0_1_is_refused_with_the_line_to_change(line: str, place: str, tmp_path: Path) -> None:
    name = line.split()[1]
    with pytest.raises(PluginImportError) as caught:
        load("method", written(tmp_path, f"# mine\n{line}\n"))
    told = f"what it imports from {name} is in {place} now; change line 2 of {tmp_path}/mine.py: {line}"
    assert str(caught.value) == f"method file {tmp_path}/mine.py was written for qgbench 0.1: {told}"


@pytest.mark.parametrize("text", ["import sys\nsys.exit(3)\n", "raise Exception\n", "import surely_not_installed\n"])
def test_whatever_a_plug_in_raises_is_an_error_of_its_own(text: str, tmp_path: Path) -> None:
    with pytest.raises(PluginImportError):
        load("method", written(tmp_path, text))


@pytest.mark.parametrize(
    ("first", "second", "sources"),
    [
        ("fixmatch = lab:Mine", "", ("built-in", "package lab 1.2 (lab:Mine)")),
        ("soft = lab:Mine", "soft = den:Mine", ("package lab 1.2 (lab:Mine)", "package den 1.2 (den:Mine)")),
    ],
)
def test_a_name_of_two_sources_is_refused_and_the_others_are_not(
    first: str, second: str, sources: tuple[str, str], package: Callable[..., Path]
) -> None:
    package("lab", ONE, methods=first)
    package("den", ONE, methods=second)
    for use in (load, source, resolve):
        with pytest.raises(UserError) as caught:
            use("method", first.partition(" ")[0])
        assert all(source in str(caught.value) for source in sources)
    assert len(catalogue("method").clashes()) == 1
    assert load("method", "mean_teacher").__name__ == "MeanTeacher"


def test_a_plug_in_makes_its_names_known(tmp_path: Path, package: Callable[..., Path]) -> None:
    file = written(tmp_path, ONE + ONE.replace("Mine", "Yours"))
    package("lab", ONE.replace("Mine", "Ours"))
    plugins = [file, "lab", file]  # one that is given twice does not clash with itself
    assert resolve("method", "Yours", plugins) == f"{file}:Yours"
    assert resolve("method", "Ours", plugins) == "lab:Ours"
    assert resolve("method", "fixmatch", plugins) == "fixmatch"
    assert resolve("method", file, []) == file
    with pytest.raises(UserError, match=r"unknown method 'Your'. Did you mean 'Yours'"):
        resolve("method", "Your", plugins)
    with pytest.raises(UserError, match="unknown method 'Yours'"):
        resolve("method", "Yours", [])


def test_a_plug_in_cannot_take_a_name(tmp_path: Path) -> None:
    first = written(tmp_path, ONE.replace("Mine", "fixmatch"), "first.py")
    second = written(tmp_path, ONE.replace("Mine", "fixmatch"), "second.py")
    with pytest.raises(UserError, match="built-in") as caught:
        resolve("method", "fixmatch", [first])
    assert f"plug-in {first}" in str(caught.value)
    with pytest.raises(UserError) as caught:
        resolve("method", "Both", [written(tmp_path, ONE.replace("Mine", "Both"), name) for name in ("a.py", "b.py")])
    assert f"plug-in {tmp_path}/a.py" in str(caught.value)
    assert f"plug-in {tmp_path}/b.py" in str(caught.value)
    assert resolve("method", "mean_teacher", [first, second]) == "mean_teacher"


def test_a_broken_plug_in_breaks_nothing_but_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = written(tmp_path, "raise ValueError('no such luck')\n", "broken.py")
    good = written(tmp_path, ONE)
    logging.getLogger("qgbench").addHandler(caplog.handler)
    try:
        assert resolve("method", "Mine", [broken, good]) == f"{good}:Mine"
    finally:
        logging.getLogger("qgbench").removeHandler(caplog.handler)
    assert set(caplog.messages) == {f"method file {broken} cannot be imported: ValueError: no such luck"}
    with pytest.raises(PluginImportError) as caught:
        resolve("method", "Broken", [broken, good])
    assert "unknown method 'Broken'" in str(caught.value).splitlines()[0]
    assert f'File "{broken}", line 1' in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.py does not exist"):
        resolve("method", "Mine", [str(tmp_path / "absent.py"), good])


def test_names_of_a_package_are_those_of_its_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site" / "big_lab"
    folder.mkdir(parents=True)
    (folder / "inner.py").write_text(ONE)
    (folder / "__init__.py").write_text(
        "from qgbench.baselines.fixmatch import FixMatch\nfrom big_lab.inner import Mine, MeanTeacher\nAlias = Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    names = {entry.name for entry in catalogue("method", ["big_lab"]).entries if entry.origin == "plug-in big_lab"}
    assert names == {"Mine"}


def test_the_source_of_a_method_is_that_of_its_file(tmp_path: Path, package: Callable[..., Path]) -> None:
    file = Path(written(tmp_path, ONE))
    module = package("lab", ONE + "\n# longer\n", methods="soft = lab:Mine")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert source("method", str(file)) == source("method", f"{file}:Mine") == digest
    assert source("method", "soft") == source("method", "lab:Mine") == hashlib.sha256(module.read_bytes()).hexdigest()
    assert source("method", "fixmatch") == ""
    module.write_text(ONE + "\n# changed\n")
    assert source("method", "soft") == hashlib.sha256(module.read_bytes()).hexdigest() != digest
    module.unlink()
    assert source("method", "soft") == "lab==1.2"
    with pytest.raises(UserError, match=r"lab\.py cannot be read"):
        source("method", "lab:Mine")
    with pytest.raises(UserError, match="unknown method"):
        source("method", "sofd")


def test_architectures_follow_the_same_rules(tmp_path: Path, package: Callable[..., Path]) -> None:
    file = written(tmp_path, ARCH, "nets.py")
    assert load("arch", file).description == load("arch", f"{file}:narrow").description == "narrow"
    package("lab", ARCH, archs="slim = lab:narrow\nwrong = lab:build")
    assert load("arch", "slim").description == "narrow"
    assert load("arch", "unet") is ARCHS["unet"]
    assert resolve("arch", "narrow", [file]) == f"{file}:narrow"
    assert source("arch", "unet") == ""
    assert source("arch", file) == source("arch", "slim") == hashlib.sha256(ARCH.encode()).hexdigest()
    with pytest.raises(UserError, match=r"Arch is expected"):
        load("arch", "wrong")
    with pytest.raises(UserError, match=r"unknown arch 'unett'\. Did you mean 'unet'"):
        load("arch", "unett")
    taken = written(tmp_path, ARCH.replace("narrow =", "fpn ="), "taken.py")
    with pytest.raises(UserError, match="built-in and of plug-in"):
        resolve("arch", "fpn", [taken])
