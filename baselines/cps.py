"""Cross pseudo supervision: two networks label for each other."""

from typing import ClassVar

import torch

from qgbench.methods import Batch, Method, Step, Term, pixel_bce, segmentation_loss


class CrossPseudoSupervision(Method):
    """Each of two students, started differently, learns from the other's hard label of the same weak view.

    Source: Chen et al., arXiv 2106.01226; settings of arXiv 2606.01753, row CPS. As in the paper, the two networks are
    the only perturbation (one view for all), and a label is the very prediction that is trained, in training mode; its
    best code adds CutMix and labels in a pass of its own. Its term on labelled images is left out, as in SSL4MIS.
    """

    networks: ClassVar[int] = 2

    def step(self, batch: Batch) -> Step:
        """Two terms, one a student: BCE against the other student's hard label, averaged over the image."""
        first, second = self.students
        supervised = segmentation_loss(first(batch.x_l), batch.y_l) + segmentation_loss(second(batch.x_l), batch.y_l)
        pred_first, pred_second = first(batch.u_w), second(batch.u_w)
        terms = []
        for pred, other, labeller in ((pred_first, pred_second, second), (pred_second, pred_first, first)):
            label = self.pseudo_label(batch.u_w, torch.sigmoid(other.float()), labeller)
            loss = pixel_bce(pred, (label > 0.5).float()).mean((1, 2, 3))
            terms.append(Term(loss, batch.u_w, label))
        return Step(supervised, terms)
