"""Cross pseudo supervision: two networks label for each other."""

from typing import ClassVar

import torch

from qgbench.methods import Batch, Method, Step, Term
from qgbench.methods.losses import pixel_bce, segmentation_loss


class CrossPseudoSupervision(Method):
    """Each of two students, started differently, learns from the other's hard label of the same weak view.

    Source: Chen et al., arXiv 2106.01226; settings of arXiv 2606.01753, row CPS. As in the paper, the two networks are
    the only perturbation (one view for all), a label is the very prediction that is trained, in training mode, and the
    labelled images are cross-supervised too; SSL4MIS leaves those out, the authors' best code adds CutMix.
    """

    networks: ClassVar[int] = 2

    def step(self, batch: Batch) -> Step:
        """Four terms, of unlabelled and of labelled images: each student's BCE against the other's hard label."""
        first, second = self.students
        pred_l, pred_u = ((first(image), second(image)) for image in (batch.x_l, batch.u_w))
        supervised = segmentation_loss(pred_l[0], batch.y_l) + segmentation_loss(pred_l[1], batch.y_l)
        terms = []
        for image, preds in ((batch.u_w, pred_u), (batch.x_l, pred_l)):
            for pred, other, labeller in ((*preds, second), (*preds[::-1], first)):
                label = self.pseudo_label(image, torch.sigmoid(other.float()), labeller)
                terms.append(Term(pixel_bce(pred, (label > 0.5).float()).mean((1, 2, 3)), image, label))
        return Step(supervised, terms)
