"""Cross pseudo supervision: two networks label for each other."""

from typing import ClassVar

from torch import Tensor

from qgbench.methods import Batch, Method, Step, Term, View
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss


class CrossPseudoSupervision(Method):
    """Each of two students, started differently, learns from the other's hard label of the same weak view.

    Source: Chen et al., arXiv 2106.01226; settings of arXiv 2606.01753, row CPS. As in the paper, the two networks are
    the only perturbation (one view for all), a label is the very prediction that is trained, in training mode, and the
    labelled images are cross-supervised too (SSL4MIS leaves those out). Labelled and unlabelled images pass apart.

    Deviations
    ----------
    - The authors' code takes one mean over labelled and unlabelled images together, which is half of the sum here where
      both batches are equal; here each has its own mean, and they are added, as in the paper.
    - The authors' supervised loss is cross-entropy alone.
    - The authors' best results add CutMix; here, as in their plain method, there is none.
    - The authors' weight is constant from the start; here it rises linearly to 0.25, as in the release of the row.
    """

    strong_views = 0

    networks: ClassVar[int] = 2

    def crossed(self, image: Tensor, preds: tuple[Tensor, Tensor], view: View) -> list[Term]:
        """Return two terms: each student's cross-entropy against the other's hard label of the same images."""
        first, second = self.network(0), self.network(1)
        terms = []
        for pred, other, labeller in ((*preds, second), (*preds[::-1], first)):
            label = self.pseudo_label(image, self.task.probabilities(other), labeller, view)
            loss = pixel_cross_entropy(self.task, pred, self.task.hard(label.prob)).mean((1, 2, 3))
            terms.append(Term(loss, label))
        return terms

    def step(self, batch: Batch) -> Step:
        """Return four terms: two of the unlabelled images, then two of the labelled ones."""
        first, second = self.network(0), self.network(1)
        pred_l, pred_u = ((first(image), second(image)) for image in (batch.x_l, batch.u_w))
        loss_1, loss_2 = (segmentation_loss(self.task, pred, batch.y_l) for pred in pred_l)
        terms = [*self.crossed(batch.u_w, pred_u, "weak"), *self.crossed(batch.x_l, pred_l, "labelled")]
        return Step(loss_1 + loss_2, terms)
