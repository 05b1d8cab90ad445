"""Ridge regression of every output at every penalty, in closed form where all of the spectrum is known."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sslcut.metrics.design import Affine, Design
from sslcut.metrics.minimise import gather, path

TOLERANCE = 1e-8  # of the descent, in which a pass is cheap beside a thousand classes'


def ridge(design: Design, targets: Tensor, l2: Tensor) -> Affine:
    """Minimises mean squared error / 2 + l2 / 2 · ‖w‖² for targets (n, K) at each of `l2` (P,); no penalty on the bias.

    The same optimum as scikit-learn's `Ridge(alpha=n · l2)`.
    """
    return gather(ridge_path(design, targets, l2))


def ridge_path(
    design: Design, targets: Tensor, l2: Tensor, *, start: Affine | None = None
) -> Iterator[tuple[Tensor, Affine]]:
    """Ridge regression as `minimise.path` yields it: all penalties at once where it is in closed form."""
    if design.spectrum.rest is None:
        yield torch.arange(len(l2)), _closed(design, targets, l2[:, None, None])
    else:
        yield from path(design, SquaredError(targets), l2, start=start, tolerance=TOLERANCE)


def _closed(design: Design, targets: Tensor, l2: Tensor) -> Affine:
    middle = targets.mean(dim=0)
    along = torch.zeros(targets.shape[1], design.width, dtype=torch.float64, device=design.device)
    for part, block in design.blocks(targets.shape[1]):
        along += (targets[part] - middle).T @ block
    along = (along / len(design)).float().expand(len(l2), -1, -1)
    weights = design.spectrum.inverse(along, torch.ones(1, 1, 1, device=design.device), l2.to(design.device))
    return design.affine(weights, middle - weights @ design.spectrum.mean)


class SquaredError:
    """Half the squared difference from targets (n, K)."""

    def __init__(self, targets: Tensor) -> None:
        self.targets, self.outputs = targets.T.contiguous(), targets.shape[1]

    def intercepts(self) -> Tensor:
        """The targets' means."""
        return self.targets.mean(dim=1)

    def slope(self, outputs: Tensor, part: slice) -> tuple[Tensor, float, Tensor]:
        """The differences of outputs (K, m) from the targets; sums of their squares' halves and of 1."""
        errors = outputs.sub_(self.targets[:, part])
        loss = float(errors.square().sum(dtype=torch.float64)) / 2
        return errors, loss, errors.new_full((self.outputs,), float(errors.shape[1]))


def squeeze(values: Tensor) -> Tensor:
    """Predictions (P, K, m) as a task holds its values: (P, m) for one output, (P, m, K) for more."""
    return values[:, 0] if values.shape[1] == 1 else torch.movedim(values, 1, 2)
