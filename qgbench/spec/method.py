"""What a method says of itself before it is built: settings, networks, needs. Imports no torch."""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from qgbench.plugins.registry import is_built_in, load
from qgbench.spec.settings import Settings


class MethodSettings(Settings):
    """Settings that every method has; the defaults are the paper's (lambda 0 -> 0.25)."""

    lambda_u: float = Field(0.25, ge=0, description="weight of the unlabelled losses after the ramp")
    warmup: float = Field(0.075, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
    ramp: float = Field(0.15, ge=0, le=1, description="fraction of the budget over which their weight rises linearly")


class Declared:
    """What each method declares; `qgbench.methods.Method` adds what computes.

    Deviations
    ----------
    - Optimiser: AdamW at one rate for the whole network, with the protocol's schedule and gradient clipping. Most
      authors use SGD with momentum and a polynomial schedule.
    - Networks and batches: encoder, decoder, image size and batch sizes are the protocol's.
    - Equal steps: all methods have one budget of steps, and schedules that are stated in steps or epochs are fractions
      of it. The student after the last step counts; most authors take the best on validation images.
    - Supervised loss: 0.5 cross-entropy + 0.5 Dice of each image, as in arXiv 2606.01753, except in MC-Net and BCP,
      which have their authors'. Dice adds 1 above and below, the release 1e-6.
    - Logits: one class has one, and a sigmoid, where most authors have two and a softmax. The loss of a pixel is the
      same, a squared error that of either channel.
    - Views are the protocol's, without the random scale and crop of natural images. Strong views are blurred by 0.1 to
      2 pixels whatever the image's size. The authors' images have 256 to 801 px; at 96 px such a blur is more.
    - Teachers are averaged at min(1 - 1/(t + 1), decay), with the decay of their authors; BCP's, as theirs, at its
      decay throughout. The release of arXiv 2606.01753 raises it linearly from 0.5 to 0.999 over 1,000 steps; the
      protocol paper (train.ema = "release") does so in every method.
    - Volumes: validation is at training size by slice, where a class that neither mask has counts 1; the field's by
      volume, where SSL4MIS gives an empty prediction Dice 0. The test is of whole volumes.
    - Unlabelled images pass from the first step on, also while their loss has no weight, except in BCP's first phase;
      in the release they do not.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    networks: ClassVar[int] = 1  # number of students
    pseudo_labels: ClassVar[bool] = True  # False: no Term is ever returned, QW has nothing to weigh
    needs_features: ClassVar[bool] = False  # True: `step` calls ``encode``, ``decode`` or ``head`` of a network
    strong_views: ClassVar[int] = 2  # how many `step` reads: 0, 1 (u_s1, cut1) or 2; others are not made
    ema_decay: ClassVar[float] = 0.999  # highest decay of the teacher's average
    ema_buffers: ClassVar[Literal["averaged", "copied"]] = "copied"  # what the teacher's running statistics are
    settings: MethodSettings

    @classmethod
    def archs(cls, settings: Any) -> Sequence[str]:
        """Return the architecture of each student, '' for the run's; the first is evaluated.

        Only architectures that ship can be named here: a run's id holds the source of no second one.
        """
        return ("",) * cls.networks

    def uses_teacher(self) -> bool:
        """Return whether an exponential moving average of the student is kept, by `settings`."""
        return False

    @classmethod
    def keeps_teacher(cls, settings: MethodSettings) -> bool:
        """Return what `uses_teacher` does with these settings, without building networks."""
        asked = cls.__new__(cls)
        asked.settings = settings
        return asked.uses_teacher()


def declared(reference: str) -> type[Declared]:
    """Return what a method declares: its class, but of one that ships only the part that says so, without torch.

    Raises
    ------
    UserError
        As `qgbench.plugins.registry.load`.
    """
    return _read(reference) if is_built_in("method", reference) else load("method", reference)


@cache
def _read(name: str) -> type[Declared]:
    """Return the class in a file of `qgbench.baselines` with that alone which `Declared` has, too."""
    module = f"qgbench.baselines.{name}"
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    known: dict[str, Any] = {"__name__": module, "Method": Declared, "MethodSettings": MethodSettings, **_parents(tree)}
    (made,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and _names(node.bases) & known.keys())
    made.body = [node for node in made.body if _bound(node) in vars(Declared)]
    needed = _names([made]) - known.keys()
    code = ast.Module([*_imports(tree, needed), made], type_ignores=[])
    exec(compile(code, spec.origin, "exec"), known)
    return known[made.name]


def _parents(tree: ast.Module) -> dict[str, type[Declared]]:
    """Return the methods of other files that a file imports, by name."""
    modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    found = [_read(name.rpartition(".")[2]) for name in modules if name.startswith("qgbench.baselines.")]
    return {each.__name__: each for each in found}


def _imports(tree: ast.Module, needed: set[str]) -> Iterator[ast.ImportFrom]:
    """Yield the imports of some names."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (names := [each for each in node.names if each.name in needed]):
            node.names = names
            yield node


def _names(nodes: Sequence[ast.AST]) -> set[str]:
    return {each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)}


def _bound(node: ast.stmt) -> str:
    """Return the name that a statement of a class gives something; '' if none."""
    match node:
        case ast.Expr(ast.Constant(str())):
            return "__doc__"
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""
