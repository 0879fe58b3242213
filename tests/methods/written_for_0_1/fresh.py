"""Fresh: say in one line what the method does."""

from pydantic import Field

from qgbench.losses import certainty, pixel_bce, segmentation_loss
from qgbench.methods import Batch, Method, MethodSettings, Step, Term


class Fresh(Method):
    """Confident labels of the weak view supervise the student's prediction on the strong view.

    Source: the authors, the arXiv number, and where the settings come from.
    """

    # What the harness reads before it builds anything. These are the defaults: delete what you do not change.
    networks = 1  # students in self.students; the first one, self.student, is evaluated
    pseudo_labels = True  # False: `step` returns no Term, and --qg means QAR instead of QW
    needs_features = False  # True: `step` calls `encode` and `decode` of a network, which some architectures lack

    class Settings(MethodSettings):
        """Settings of Fresh, beside lambda_u, warmup and ramp."""

        # One line a setting: default, range (ge, gt, le, lt; Literal for choices), meaning. Each needs a default.
        # Users write --set method.threshold=0.9.
        threshold: float = Field(0.8, ge=0.5, le=1, description="least max(p, 1 - p) of a pixel that counts")

    settings: Settings

    # Heads of your own are made in `__init__(self, build, settings)`, after super().__init__(build, settings); they are
    # trained with the students. Whatever must survive a restart is a parameter or a registered buffer.

    def uses_teacher(self) -> bool:
        """True keeps self.teacher, an exponential moving average of the student; the harness moves it."""
        return False

    def step(self, batch: Batch) -> Step:
        """Say what would be minimised on one batch; the harness weighs, reduces and trains.

        Images are float RGB in [0, 1]: batch.x_l (B, 3, H, W) with masks batch.y_l (B, 1, H, W); unlabelled batch.u_w
        (U, 3, H, W) in the weak view, batch.u_s1 and batch.u_s2 in strong views aligned with it. Schedules follow
        batch.progress, the done fraction of the budget in [0, 1].
        """
        # Pseudo-labels come from self.label(network, image), or pass self.pseudo_label(image, prob, network): detached.
        label = self.label(self.student, batch.u_w)  # (U, 1, H, W) probabilities
        certain = certainty(label) >= self.settings.threshold

        # One value a row, (U,): never a mean over the batch, which would hide the rows that quality guidance weighs.
        pred_u_s = self.student(batch.u_s1)  # (U, 1, H, W) logits
        loss = (pixel_bce(pred_u_s, (label > 0.5).float()) * certain).mean((1, 2, 3))

        # The view and the uncut label tell what row n trusts: image n. Give `owner` where rows and images differ, and
        # `denominator` where rows are divided by numbers of their own (certain pixels, a confidence).
        term = Term(loss, image=batch.u_w, label=label)

        # The supervised loss is a scalar.
        return Step(segmentation_loss(self.student(batch.x_l), batch.y_l), [term])
