"""docs/how-to/loop.md and its examples: what is shown is what runs, and what runs uses the guide alone."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench import QualityGuide, QualityPredictor
from qgbench.methods import Term, reduce_term
from qgbench.methods.cutmix import cutmix_term, paste
from qgbench.spec.task import Task
from tests.quality.test_library import fitted, method_of

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "how-to" / "loop.md").read_text()
sys.path.append(str(EXAMPLES))
import unimatch_style  # noqa: E402


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_examples_as_they_are() -> None:
    plain, step, mixed, *_ = blocks("python")
    assert plain == (EXAMPLES / "plain_loop.py").read_text()
    unimatch = (EXAMPLES / "unimatch_style.py").read_text()
    assert mixed in unimatch
    assert all(line.strip() in unimatch for line in step.splitlines())


def test_the_page_explains_every_call_of_the_guide_and_no_other() -> None:
    named = set(re.findall(r"`(?:\w+ = )?(?:qgbench\.Quality)?(?:g|guide|Predictor|Guide)\.(\w+)\(", PAGE))
    public = {name for kind in (QualityGuide, QualityPredictor) for name in vars(kind) if not name.startswith("_")}
    assert named == public - {"task", "forward", "require", "card", "mean", "std", "form", "loss", "skill"}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_uses_nothing_else_of_qgbench(example: Path) -> None:
    text = example.read_text()
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith("qgbench")} == {"qgbench"}
    assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and str(n.module).startswith("qgbench")]
    assert set(re.findall(r"qgbench\.(\w+)", text)) == {"QualityGuide"}
    assert example.name != "plain_loop.py" or len(text.splitlines()) <= 40


def typed(line: str, folder: Path) -> str:
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    call = ["bash", "-euc", line]
    done = subprocess.run(call, cwd=folder, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples in their place, where the first command of the page was typed, with fewer steps."""
    folder = tmp_path_factory.mktemp("outsider")
    (folder / "docs").symlink_to(ROOT / "docs")
    quick = " --threads 1 --steps 1 --set quality.steps=4 --set 'quality.weak_epochs=[1]'"
    typed(blocks("sh")[0].splitlines()[0] + quick, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", blocks("sh")[0].splitlines()[1:])
def test_a_loop_of_the_page_runs_and_learns(line: str, folder: Path) -> None:
    assert line.endswith(" 20")
    printed = typed(line.removesuffix(" 20") + " 10", folder)
    steps = re.findall(r"^step (\d+): loss ([\d.]+), mean weight ([\d.]+)$", printed, re.MULTILINE)
    assert [int(step) for step, *_ in steps] == [5, 10]
    assert float(steps[1][1]) < float(steps[0][1])
    assert all(0 <= float(weight) <= 1 for *_, weight in steps)


# UniMatch's CutMix: two rows a view


def mixed(classes: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(4, classes + 1, 16, 16, requires_grad=True)
    prob = (6 * torch.randn(4, classes + 1, 16, 16)).softmax(1)
    box = unimatch_style.cutmix_boxes(torch.rand(4, 3, 16, 16))
    return logits, prob, box, torch.arange(4).roll(1), torch.tensor([0.0, 0.9, 0.4, 0.7])


def test_boxes_are_a_quarter_of_the_image_and_differ() -> None:
    torch.manual_seed(0)
    boxes = unimatch_style.cutmix_boxes(torch.rand(8, 3, 16, 24))
    assert boxes.flatten(1).sum(1).tolist() == [96] * 8
    assert len({tuple(box.flatten().tolist()) for box in boxes}) > 4


def test_the_mixed_loss_is_the_harness_s_of_a_cutmix_term() -> None:
    logits, prob, box, partner, w = mixed()
    task = Task(("first", "second", "third"))
    conf, mask = prob.max(1)
    found = unimatch_style.mixed_loss(QualityGuide(fitted(task)), logits, mask, conf, w, box, partner)
    label = method_of(task).pseudo_label(torch.rand(4, 3, 16, 16), prob)
    pasted = paste(prob, box.unsqueeze(1), partner)
    pixels = F.cross_entropy(logits, pasted.argmax(1), reduction="none") * (pasted.amax(1) >= 0.95)
    term: Term = cutmix_term(pixels.unsqueeze(1), label, box.unsqueeze(1), partner, 1.0)
    expected = reduce_term(term, w)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_pixels_of_a_rejected_label_count_nowhere() -> None:
    logits, prob, box, partner, w = mixed()
    conf, mask = prob.max(1)
    guide = QualityGuide(fitted(Task(("first", "second", "third"))))
    loss = unimatch_style.mixed_loss(guide, logits, mask, conf, w, box, partner)
    (gradient,) = torch.autograd.grad(loss, logits)
    touched = gradient.abs().sum(1) > 0
    assert not touched[0][~box[0]].any(), "what the first view kept trusts the rejected label"
    assert not touched[1][box[1]].any(), "the box of the second is of the first"
    assert touched[1][~box[1]].any()


def test_equal_weights_give_the_mean_over_all_pixels() -> None:
    logits, prob, box, partner, _ = mixed()
    conf, mask = prob.max(1)
    guide = QualityGuide(fitted(Task(("first", "second", "third"))))
    loss = unimatch_style.mixed_loss(guide, logits, mask, conf, torch.full((4,), 0.3), box, partner)
    pixels = unimatch_style.certain_loss(
        logits, torch.where(box, mask[partner], mask), torch.where(box, conf[partner], conf)
    )
    torch.testing.assert_close(loss, pixels.mean())
