import copy
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.engine.device import World
from qgbench.methods import Batch, Method, Network, PseudoLabel, Step, Term, View, probabilities
from qgbench.methods.normalisation import frozen_statistics
from qgbench.quality.guide import (
    AddOn,
    Guide,
    QualityRegularisation,
    QualitySelection,
    QualityWeighting,
    Refinement,
    effective_sample_size,
    quality_weight,
    ramp,
)
from qgbench.quality.scores import (
    Labelling,
    MeanQuality,
    PixelQuality,
    PredictedQuality,
    Score,
    ShuffledQuality,
    TrueDice,
    Watched,
    overlap,
)
from qgbench.spec.arm import RefinementSettings, SelectionSettings
from qgbench.training.streams import Streams
from qgbench.trust.toys import ToyQuality, ToySegmenter, toy_data, toy_protocol


class Plain(Method):
    def step(self, batch: Batch) -> Step:
        return Step(self.student(batch.x_l).mean())


class Pair(Plain):
    networks = 2


class Averaged(Plain):
    def uses_teacher(self) -> bool:
        return True


def method_of(kind: type[Method] = Plain, dropout: float = 0.1) -> Method:
    def build() -> nn.Module:
        network = ToySegmenter()
        network.head[0] = nn.Dropout2d(dropout)
        return network

    torch.manual_seed(0)
    return kind(build, kind.Settings()).train()


def batch_at(progress: float) -> Batch:
    return Streams(toy_data(), toy_protocol(10).train, 0).next(progress)[0]


@pytest.fixture
def g() -> nn.Module:
    torch.manual_seed(1)
    return ToyQuality().requires_grad_(False).eval()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# Ramp, weight, effective sample size


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.0), (0.149, 0.0), (0.15, 0.0), (0.2, 0.5), (0.25, 1.0), (0.35, 2.0), (0.36, 2.0), (1.0, 2.0)],
)
def test_ramp(progress: float, expected: float) -> None:
    assert ramp(progress, 0.15, 0.2, 2.0) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.0), (0.1999, 0.0), (0.2, 3.0), (0.9, 3.0)])
def test_a_ramp_of_length_zero_is_a_step(progress: float, expected: float) -> None:
    assert ramp(progress, 0.2, 0.0, 3.0) == expected


def test_no_warm_up_and_no_ramp_give_the_full_weight_from_the_first_step() -> None:
    assert ramp(0.0, 0.0, 0.0, 3.0) == 3.0


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_ramp_never_falls_and_stays_in_range(progress: list[float], warmup: float, length: float) -> None:
    first, second = (ramp(value, warmup, length, 0.25) for value in sorted(progress))
    assert 0.0 <= first <= second <= 0.25


def test_quality_weight_is_equation_7() -> None:
    quality = torch.tensor([0.0, 0.3, 0.4999, 0.5, 0.8, 1.0])
    assert quality_weight(quality, 0.5, 2.0).tolist() == pytest.approx([0, 0, 0, 0.25, 0.64, 1])
    assert quality_weight(quality, 0.0, 1.0).tolist() == pytest.approx(quality.tolist())
    assert quality_weight(quality, 0.0, 3.0).tolist() == pytest.approx([q**3 for q in quality.tolist()])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([0.7] * 5, 1.0),
        ([0.0, 0.0, 0.3, 0.0], 0.25),
        ([1.0, 1.0, 0.0, 0.0], 0.5),
        ([1.0, 0.5], 0.9),
        ([0.25, 0.64, 1.0], 1.89**2 / (3 * (0.0625 + 0.4096 + 1))),
        ([0.0, 0.0], 0.0),
    ],
)
def test_effective_sample_size_in_closed_form(weight: list[float], expected: float) -> None:
    assert float(effective_sample_size(torch.tensor(weight))) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=32), st.floats(1e-8, 1))
def test_effective_sample_size_is_in_range_and_ignores_the_scale(values: list[float], scale: float) -> None:
    weight = torch.tensor(values)
    found = float(effective_sample_size(weight))
    assert 1 / len(values) - 1e-5 <= found <= 1 + 1e-5
    assert float(effective_sample_size(weight * scale)) == pytest.approx(found, rel=1e-4)


# Weighing


class Counting(Score):
    """A score that remembers what it was asked."""

    def __init__(self, values: Callable[[Labelling], Tensor] | None = None) -> None:
        super().__init__()
        self.asked: list[Labelling] = []
        self._values = values

    def __call__(self, labelling: Labelling) -> Tensor:
        self.asked.append(labelling)
        return labelling.prob.mean((1, 2, 3)) if self._values is None else self._values(labelling)


def labelled(
    method: Method, image: Tensor, seed: int, network: Network | None = None, view: View = "weak"
) -> PseudoLabel:
    prob = torch.rand(len(image), 1, *image.shape[2:], generator=torch.Generator().manual_seed(seed))
    return method.pseudo_label(image, prob, network, view)


def term(label: PseudoLabel) -> Term:
    return Term(torch.ones(len(label)), label)


def test_each_label_is_scored_once_a_step() -> None:
    method, score = method_of(), Counting()
    guide = Guide([QualityWeighting(score=score)])
    image = torch.rand(3, 3, 8, 8)
    label, other = labelled(method, image, 0), labelled(method, image, 1)
    weights = guide.weights([term(label), term(label), term(other), term(label)], {})
    assert [torch.equal(asked.prob, label.prob) for asked in score.asked] == [True, False]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[3])
    assert not torch.equal(weights[0], weights[2])
    guide.weights([term(label)], {})
    assert len(score.asked) == 3  # the next step asks again


def test_the_score_is_told_which_network_labelled_and_gets_the_held_back_masks() -> None:
    method, score = method_of(Averaged), Counting()
    image, truth = torch.rand(3, 3, 8, 8), torch.ones(3, 1, 8, 8)
    by_teacher, by_student = labelled(method, image, 0, method.teacher), labelled(method, image, 1)
    guide = Guide([QualityWeighting(score=score)])
    guide.weights([term(by_teacher), term(by_student)], {"weak": truth})
    assert [asked.network for asked in score.asked] == [method.teacher, method.student]
    assert all(asked.truth is truth for asked in score.asked)


def test_labelled_images_have_their_own_masks_and_no_part_in_the_log() -> None:
    method = method_of()
    batch = batch_at(0.5)
    score = Counting(lambda asked: torch.full((len(asked.prob),), 0.9 if asked.unlabelled else 0.6))
    guide = Guide([QualityWeighting(score=score)])
    truth, mixed = torch.ones(len(batch.u_w), 1, *batch.u_w.shape[2:]), batch.u_w.flip(0)
    views: tuple[tuple[Tensor, View], ...] = ((batch.x_l, "labelled"), (batch.u_w, "weak"), (mixed, "other"))
    terms = [term(labelled(method, image, 0, view=view)) for image, view in views]
    weights = guide.weights(terms, {"weak": truth, "labelled": batch.y_l})
    assert [float(weight[0]) for weight in weights] == pytest.approx([0.36, 0.81, 0.81])
    assert score.asked[0].truth is batch.y_l
    assert score.asked[1].truth is truth
    assert score.asked[2].truth is None
    assert guide.take_log()["mean_q"] == pytest.approx(0.9)
    unlabelled_dice = overlap(score.asked[1].prob > 0.5, truth > 0.5)
    assert guide.take_window()["pseudo_dice"] == pytest.approx(float(unlabelled_dice.mean()))


def test_weights_are_those_of_equation_7_and_detached() -> None:
    quality = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    method = method_of()
    guide = Guide([QualityWeighting(score=Counting(lambda _: quality))])
    image = torch.rand(3, 3, 8, 8)
    (weight,) = guide.weights([term(labelled(method, image, 0))], {})
    assert weight.tolist() == pytest.approx([0.0, 0.25, 0.81])
    assert not weight.requires_grad


def test_the_mean_of_the_weights_is_given_to_every_label(g: nn.Module) -> None:
    image, prob = torch.rand(6, 3, 32, 32), torch.rand(6, 1, 32, 32)
    asked = Labelling(image, prob, ToySegmenter(), None)
    own = QualityWeighting.Settings(tau=0.5, temperature=3.0)
    weight = QualityWeighting(own, PredictedQuality(g)).weigh(asked)
    assert 0 < weight.count_nonzero() < 6, "the mean is one of weights, some of them 0, and not of q"
    assert QualityWeighting(own, MeanQuality(g)).weigh(asked).tolist() == pytest.approx([float(weight.mean())] * 6)


def selection(keep: float, qualities: list[list[float]]) -> tuple[QualitySelection, list[list[float]]]:
    """Return an add-on after batches of given qualities, and the weights that it gave."""
    answers = iter(torch.tensor(batch) for batch in qualities)
    addon = QualitySelection(SelectionSettings(keep=keep), Counting(lambda _: next(answers)))
    method = method_of()
    image = torch.rand(len(qualities[0]), 3, 8, 8)
    given = [Guide([addon]).weights([term(labelled(method, image, 0))], {})[0].tolist() for _ in qualities]
    return addon, given


def test_a_selection_keeps_the_top_share_of_the_latest_labels() -> None:
    batches = [[0.1, 0.9, 0.2, 0.8], [0.95, 0.96, 0.97, 0.98], [0.0, 0.05, 0.06, 0.07]]
    assert selection(0.5, batches)[1] == [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert selection(1.0, batches)[1] == [[1, 1, 1, 1]] * 3
    assert selection(0.5, [[0.3] * 4])[1] == [[1] * 4], "equal labels are chosen together"


def test_a_selection_ranks_the_latest_256_labels_alone() -> None:
    bad_then_good = [[0.1] * 64] * 4 + [[0.9] * 64] * 4 + [[0.8] * 64]
    assert [batch[0] for batch in selection(0.5, bad_then_good)[1]] == [1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_a_selection_continues_after_a_resume() -> None:
    before, _ = selection(0.5, [[0.9] * 4])
    after, _ = selection(0.5, [[0.5] * 4])
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for addon in (before, after):
        addon.score = Watched(Counting(lambda _: torch.tensor([0.4, 0.6, 0.3, 0.7])), "given")
    asked = Labelling(torch.rand(4, 3, 8, 8), torch.rand(4, 1, 8, 8), ToySegmenter(), None)
    assert before.weigh(asked).tolist() == after.weigh(asked).tolist() == [0, 0, 0, 0]
    assert selection(0.5, [[0.5] * 4, [0.4, 0.6, 0.3, 0.7]])[1][1] == [0, 1, 0, 1], "as it would without"


@pytest.mark.parametrize("how", ["replace", "average"])
def test_a_label_is_replaced_by_the_corrected_one_or_averaged_with_it(
    g: nn.Module, how: Literal["replace", "average"]
) -> None:
    batch = batch_at(0.5)
    truth, method = torch.rand_like(batch.u_w[:, :1]).round(), method_of()
    prob = torch.rand(len(batch.u_w), 1, 32, 32)
    cases: list[tuple[Score, Tensor]] = [
        (PixelQuality(g), ToyQuality().refined(batch.u_w, prob)),
        (TrueDice(), truth),
    ]
    for score, better in cases:
        guide = Guide([Refinement(RefinementSettings(refine=how), score)])
        guide.attach(method)
        guide.begin(batch, truth)
        found = method.pseudo_label(batch.u_w.clone(), prob).prob
        assert torch.allclose(found, better if how == "replace" else 0.5 * prob + 0.5 * better)
        assert not found.requires_grad
    own = torch.rand_like(batch.y_l)
    expected = batch.y_l if how == "replace" else (own + batch.y_l) / 2
    assert torch.allclose(method.pseudo_label(batch.x_l, own, view="labelled").prob, expected)
    with pytest.raises(UserError, match="masks aligned with the labelled pictures"):
        method.pseudo_label(batch.u_s1, prob, view="other")


def test_a_score_that_gives_all_labels_one_weight_selects_none(g: nn.Module) -> None:
    with pytest.raises(UserError, match="MeanQuality gives every label of a batch the same weight"):
        QualitySelection(None, MeanQuality(g))


def test_a_score_without_a_mask_of_its_own_corrects_nothing(g: nn.Module) -> None:
    with pytest.raises(UserError, match="use --qg-score pixel, both, second, oracle"):
        Refinement(None, PredictedQuality(g)).correct(torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32))


def test_without_modes_every_weight_is_one() -> None:
    method, image = method_of(), torch.rand(3, 3, 8, 8)
    (weight,) = Guide([]).weights([term(labelled(method, image, 0))], {})
    assert weight.tolist() == [1.0, 1.0, 1.0]
    assert weight.dtype == torch.float32
    assert Guide([]).weights([], {}) == []


def test_weights_of_two_modes_multiply() -> None:
    loose = QualityWeighting.Settings(tau=0.0, temperature=1.0)
    modes: list[AddOn] = [
        QualityWeighting(loose, Counting(lambda _: torch.tensor([0.5, 1.0]))),
        AddOn(),
        QualityWeighting(loose, Counting(lambda _: torch.tensor([0.5, 0.2]))),
    ]
    method, image = method_of(), torch.rand(2, 3, 8, 8)
    (weight,) = Guide(modes).weights([term(labelled(method, image, 0))], {})
    assert weight.tolist() == pytest.approx([0.25, 0.2])


def test_the_log_averages_what_the_weights_did_since_it_was_last_taken() -> None:
    answers = iter([torch.tensor([0.2, 0.6]), torch.tensor([1.0, 1.0])])
    guide = Guide([QualityWeighting(score=Counting(lambda _: next(answers)))])
    method, image = method_of(), torch.rand(2, 3, 8, 8)
    for seed in (0, 1):
        guide.weights([term(labelled(method, image, seed))], {})
    assert guide.take_log() == pytest.approx({"mean_q": 0.7, "kept_share": 0.75, "effective_sample_size": 0.75})
    assert guide.take_log() == {}


def test_the_shuffling_control_continues_after_a_resume(g: nn.Module) -> None:
    image = torch.rand(8, 3, 32, 32)
    asked = Labelling(image, torch.rand(8, 1, 32, 32), ToySegmenter(), None)
    loose = QualityWeighting.Settings(tau=0.0)

    def guide(seed: int) -> Guide:
        return Guide([QualityWeighting(loose, ShuffledQuality(g, seed))])

    first, second = guide(0), guide(4)
    first.modes[0].weigh(asked)
    state = copy.deepcopy(first.state_dict())
    expected = [first.modes[0].weigh(asked) for _ in range(3)]
    second.load_state_dict(state)
    found = [second.modes[0].weigh(asked) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))  # type: ignore[arg-type]


class FirstOfTwo(World):
    """The first of two processes; the second one's rows are given."""

    def __init__(self, others: list[Tensor]) -> None:
        super().__init__()
        self.rank, self.size = 0, 2
        self._others = iter(others)

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, next(self._others)])


def test_the_log_is_of_the_rows_of_all_processes() -> None:
    guide = Guide([QualityWeighting(score=Counting(lambda _: torch.tensor([1.0, 0.2])))])
    guide.join(FirstOfTwo([torch.tensor([0.25, 0.0]), torch.tensor([0.5, 0.3])]))  # weights, then qualities
    method, image = method_of(), torch.rand(2, 3, 8, 8)
    (weight,) = guide.weights([term(labelled(method, image, 0))], {})
    assert weight.tolist() == [1.0, 0.0]
    assert guide.take_log() == pytest.approx(
        {"mean_q": 0.5, "kept_share": 0.5, "effective_sample_size": 1.25**2 / (4 * (1 + 0.0625))}
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_the_shuffling_control_permutes_the_rows_of_all_processes(g: nn.Module, rank: int) -> None:
    image = torch.rand(8, 3, 32, 32)
    prob = torch.rand(8, 1, 32, 32)
    whole = ShuffledQuality(g, 5)(Labelling(image, prob, ToySegmenter(), None))
    mine, others = (slice(4 * r, 4 * r + 4) for r in (rank, 1 - rank))
    theirs = g(image[others], (prob[others] > 0.5).float())

    class Half(World):
        def gather(self, rows: Tensor) -> Tensor:
            return torch.cat([rows, theirs] if rank == 0 else [theirs, rows])

    world = Half()
    world.rank, world.size = rank, 2
    found = ShuffledQuality(g, 5)(Labelling(image[mine], prob[mine], ToySegmenter(), None, world))
    assert torch.allclose(found, whole[mine], atol=1e-6)
    assert not torch.allclose(found.sort().values, g(image[mine], (prob[mine] > 0.5).float()).sort().values)


# Correcting labels


class Invert(AddOn):
    def correct(self, image: Tensor, prob: Tensor) -> Tensor:
        return 1 - prob


class Halve(AddOn):
    def correct(self, image: Tensor, prob: Tensor) -> Tensor:
        return prob / 2


def test_modes_correct_labels_in_their_order() -> None:
    method = method_of()
    prob = torch.full((2, 1, 4, 4), 0.2)
    Guide([Invert(), AddOn(), Halve()]).attach(method)
    assert method.pseudo_label(torch.rand(2, 3, 4, 4), prob).prob.unique().tolist() == pytest.approx([0.4])


def test_modes_that_correct_nothing_leave_labels_alone() -> None:
    method = method_of()
    prob = torch.rand(2, 1, 4, 4)
    Guide([AddOn(), QualityWeighting(score=Counting())]).attach(method)
    assert torch.equal(method.pseudo_label(torch.rand(2, 3, 4, 4), prob).prob, prob)


# Quality-aware regularisation


def test_qar_is_lambda_times_the_mean_of_one_minus_g(g: nn.Module) -> None:
    method = method_of(dropout=0.0)
    batch = batch_at(0.5)
    student = copy.deepcopy(method.student).train()
    quality = g(batch.u_w, 1 / (1 + torch.exp(-student(batch.u_w)))).detach().numpy().astype(float)
    loss = QualityRegularisation(predictor=g).loss(batch, method, 0)
    assert loss is not None
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(0.01 * (1 - quality).mean(), rel=1e-5)


@pytest.mark.parametrize(("progress", "share"), [(0.15, 0.0), (0.25, 0.5), (0.35, 1.0), (0.9, 1.0)])
def test_the_weight_of_qar_rises_along_its_ramp(g: nn.Module, progress: float, share: float) -> None:
    method = method_of(dropout=0.0)
    mode = QualityRegularisation(predictor=g)
    highest, found = (mode.loss(batch_at(value), method, 0) for value in (1.0, progress))
    assert highest is not None
    assert found is not None
    assert found.item() == pytest.approx(share * highest.item(), rel=1e-5)
    assert highest.item() > 0


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.1499])
def test_qar_is_nothing_before_its_warm_up_ends(g: nn.Module, progress: float) -> None:
    method = method_of()
    assert QualityRegularisation(predictor=g).loss(batch_at(progress), method, 0) is None
    guide = Guide([QualityRegularisation(predictor=g)])
    assert guide.losses(batch_at(progress), method, 0) is None


def test_the_gradient_of_qar_reaches_the_whole_student_and_not_g(g: nn.Module) -> None:
    method = method_of(Averaged)
    before = snapshot(g)
    loss = QualityRegularisation(predictor=g).loss(batch_at(0.5), method, 0)
    assert loss is not None
    loss.backward()
    # A bias before batch normalisation has a gradient of zero by construction; all others have one that is not.
    for name, parameter in method.student.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) or name.endswith("bias"), name
    assert all(p.grad is None for p in g.parameters())
    assert method.teacher is not None
    assert all(p.grad is None for p in method.teacher.parameters())
    assert unchanged(g, before)


def test_a_step_along_the_gradient_of_qar_raises_g(g: nn.Module) -> None:
    method = method_of(dropout=0.0)
    mode, batch = QualityRegularisation(predictor=g), batch_at(0.5)
    losses = []
    for _ in range(3):
        loss = mode.loss(batch, method, 0)
        assert loss is not None
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(method.student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(method.student.parameters(), gradients, strict=True):
                parameter.sub_(5.0 * gradient)
    assert losses[0] > losses[1] > losses[2]


def test_qar_uses_batch_statistics_and_leaves_the_running_ones_alone(g: nn.Module) -> None:
    method, batch = method_of(dropout=0.0), batch_at(0.5)
    method.student(torch.rand(4, 3, 32, 32))  # running statistics away from their start
    before = snapshot(method)
    assert any(name.endswith("num_batches_tracked") and int(value) == 1 for name, value in before.items())
    mode = QualityRegularisation(predictor=g)
    loss = mode.loss(batch, method, 0)
    assert loss is not None
    loss.backward()
    assert unchanged(method, before)
    assert all(m.track_running_stats for m in method.modules() if isinstance(m, nn.BatchNorm2d))
    by_running = (1 - g(batch.u_w, probabilities(method.student, batch.u_w))).mean()
    assert loss.item() != pytest.approx(0.01 * float(by_running), rel=1e-4)
    method.student(torch.rand(4, 3, 32, 32))
    assert not unchanged(method, before)  # the next plain pass moves them again


def test_qar_leaves_the_global_random_numbers_alone_and_draws_its_own(g: nn.Module) -> None:
    method, batch = method_of(dropout=0.5), batch_at(0.5)
    mode = QualityRegularisation(predictor=g, seed=3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = [mode.loss(batch, method, step) for step in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = [mode.loss(batch, method, step) for step in (0, 1)]
    assert [loss.item() for loss in first if loss is not None] == [loss.item() for loss in second if loss is not None]
    assert first[0] is not None
    assert first[1] is not None
    assert first[0].item() != first[1].item()  # another step, another dropout


def test_qar_draws_other_random_numbers_in_other_processes(g: nn.Module) -> None:
    method, batch = method_of(dropout=0.5), batch_at(0.5)

    def loss(rank: int) -> float:
        guide, world = Guide([QualityRegularisation(predictor=g, seed=3)]), World()
        world.rank, world.size = rank, 3
        guide.join(world)
        found = guide.losses(batch, method, 1)
        assert found is not None
        return found.item()

    alone = QualityRegularisation(predictor=g, seed=3).loss(batch, method, 1)
    assert alone is not None
    assert loss(0) == alone.item()
    assert len({loss(0), loss(1), loss(2)}) == 3
    assert loss(1) == loss(1)


def test_qar_of_two_students_is_the_sum(g: nn.Module) -> None:
    pair, batch = method_of(Pair, dropout=0.0), batch_at(0.5)
    mode = QualityRegularisation(predictor=g)
    parts = []
    for student in pair.students:
        single = method_of(dropout=0.0)
        single.students[0].load_state_dict(student.state_dict())
        loss = mode.loss(batch, single, 0)
        assert loss is not None
        parts.append(loss.item())
    total = mode.loss(batch, pair, 0)
    assert total is not None
    assert parts[0] != parts[1]
    assert total.item() == pytest.approx(sum(parts), rel=1e-5)
    total.backward()
    assert all(p.grad is not None for p in pair.students.parameters())


def test_losses_of_several_modes_add_up(g: nn.Module) -> None:
    class Constant(AddOn):
        def loss(self, batch: Batch, method: Method, step: int) -> Tensor | None:
            return torch.tensor(float(step))

    method, batch = method_of(dropout=0.0), batch_at(0.5)
    alone = QualityRegularisation(predictor=g).loss(batch, method, 2)
    total = Guide([Constant(), AddOn(), QualityRegularisation(predictor=g)]).losses(batch, method, 2)
    assert alone is not None
    assert total is not None
    assert total.item() == pytest.approx(2.0 + alone.item(), rel=1e-6)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True), nn.SyncBatchNorm(3)]
)
def test_frozen_statistics_end_with_the_block_even_after_an_error(layer: Any) -> None:
    image = torch.rand(4, 3, 8, 8)
    expected = copy.deepcopy(layer)(image)
    before = snapshot(layer)

    def fail() -> None:
        with frozen_statistics(layer):
            assert torch.equal(layer(image), expected)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert unchanged(layer, before)
    layer(image)
    assert not unchanged(layer, before)


def test_layers_that_never_tracked_still_do_not() -> None:
    layer = nn.BatchNorm2d(3, track_running_stats=False)
    with frozen_statistics(layer):
        layer(torch.rand(2, 3, 4, 4))
    assert not layer.track_running_stats


# What add-ons and scores hand back


def handed(weight: Any = None, label: Any = None, loss: Any = None, score: Any = None) -> tuple[Guide, Method, Batch]:
    """Return a guide of one add-on that gives what is said, or weighs by a score that does."""

    class Given(AddOn):
        def weigh(self, labelling: Labelling) -> Tensor | None:
            return weight if score is None else Watched(scored, "mine")(labelling)

        def correct(self, image: Tensor, prob: Tensor) -> Tensor:
            return prob if label is None else label(prob)

        def loss(self, batch: Batch, method: Method, step: int) -> Tensor | None:
            return loss

    class Scored(Score):
        def __call__(self, labelling: Labelling) -> Tensor:
            return score

    scored, method, guide = Scored(), method_of(), Guide([Given()])
    guide.attach(method)
    return guide, method, batch_at(0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": torch.full((6,), 3.0)}, "add-on Given: weigh gave values from 3 to 3; expected a tensor of shape"),
        ({"weight": -torch.ones(6)}, "add-on Given: weigh gave values from -1 to -1"),
        ({"weight": torch.tensor(0.5)}, r"add-on Given: weigh gave a Tensor of shape \(\); expected .* shape \(6,\)"),
        ({"weight": 0.5}, r"add-on Given: weigh gave 0\.5; expected a tensor of shape \(6,\), in \[0, 1\]"),
        ({"weight": torch.full((6,), torch.nan)}, "add-on Given: weigh gave NaN"),
        ({"score": torch.full((6,), 5.0)}, "score mine gave values from 5 to 5"),
        ({"score": torch.full((6,), torch.nan)}, "score mine gave NaN"),
        ({"score": torch.tensor(0.5)}, r"score mine gave a Tensor of shape \(\)"),
        ({"score": [0.5] * 6}, "score mine gave a list"),
        ({"label": lambda prob: 5 * prob}, "add-on Given: correct gave values from .* to"),
        ({"label": lambda prob: prob[:1]}, r"add-on Given: correct gave a Tensor of shape \(1, 1, 32, 32\)"),
        ({"label": lambda prob: "none"}, "add-on Given: correct gave none; expected"),
        (
            {"loss": torch.ones(8)},
            r"add-on Given: loss gave a Tensor of shape \(8,\); expected a scalar tensor",
        ),
        ({"loss": 0.1}, r"add-on Given: loss gave 0\.1; expected a scalar tensor"),
    ],
)
def test_what_an_add_on_hands_back_is_looked_at(given: dict[str, Any], message: str) -> None:
    guide, method, batch = handed(**given)

    def step() -> None:
        guide.weights([Term(torch.ones(6), method.label(method.student, batch.u_w))], {})
        guide.losses(batch, method, 0)

    with pytest.raises(UserError, match=f"^{message}"):
        step()


def test_nan_of_a_score_is_the_trainings_where_the_labels_have_it() -> None:
    guide, method, batch = handed(score=torch.full((6,), torch.nan))
    label = method.pseudo_label(batch.u_w, torch.full((6, 1, 32, 32), torch.nan))
    (weight,) = guide.weights([Term(torch.ones(6), label)], {})
    assert bool(weight.isnan().all())


def test_an_add_on_that_fails_is_named_with_its_line() -> None:
    class Failing(AddOn):
        def weigh(self, labelling: Labelling) -> Tensor:
            return labelling.probability  # type: ignore[attr-defined]  # the mistake

    label = handed()[1].label(method_of().student, batch_at(0.5).u_w)
    with pytest.raises(UserError, match=r"^add-on Failing: weigh failed: AttributeError: .* \(test_guide\.py, line \d"):
        Guide([Failing()]).weights([Term(torch.ones(6), label)], {})
