"""Multinomial logistic regression at many penalties."""

import torch
from torch import Tensor

from sslcut.metrics.design import Affine, Design
from sslcut.metrics.minimise import gather, path


def logistic(
    design: Design, labels: Tensor, classes: int, l2: Tensor, *, start: Affine | None = None, tolerance: float = 1e-6
) -> Affine:
    """Minimises mean cross-entropy + l2 / 2 · ‖W‖² for labels (n,) at each of `l2` (P,); no penalty on the bias.

    The same optimum as scikit-learn's `LogisticRegression(C=1 / (n · l2))`, from wherever it starts: one map for the
    largest penalty, or none. Ends as `minimise.path` does.
    """
    return gather(path(design, CrossEntropy(labels, classes), l2, start=start, tolerance=tolerance))


class CrossEntropy:
    """The loss of logits for labels (n,)."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.labels, self.outputs = labels, classes

    def intercepts(self) -> Tensor:
        """The logarithms of the classes' shares, with half an image more in each."""
        counts = torch.bincount(self.labels, minlength=self.outputs).float() + 0.5
        return (counts / counts.sum()).log()

    def slope(self, outputs: Tensor, part: slice) -> tuple[Tensor, float, Tensor]:
        """The probabilities of logits (C, m) less the one-hot labels; sums of −log p and of p(1 − p)."""
        own = self.labels[None, part]
        chances = torch.log_softmax(outputs, dim=0)
        loss = -float(chances.gather(0, own).sum(dtype=torch.float64))
        chances.exp_()
        spread = chances.sum(dim=1) - torch.linalg.vector_norm(chances, dim=1).square()
        return chances.scatter_add_(0, own, chances.new_full((), -1.0).expand(own.shape)), loss, spread
