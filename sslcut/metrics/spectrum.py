"""How features vary: along all their principal directions where these are few, else along the largest of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslcut.metrics.rows import Kept, Rows, short_steps, steps

EXACT = 1024  # directions of which all are found; the time grows with the cube: 0.2 s here, 1.3 s at twice as many
SKETCH = 256  # of the largest where there are more: one pass, and hardly a step more than with all of them
SPARE, ROUNDS = 32, 3  # directions and passes more than asked for, where the largest are found by iteration
RANK = 1e-7  # directions with less than this share of the largest variance are rounding in float32


@dataclass(frozen=True)
class Spectrum:
    """Mean (D,) of features, and their variances (R,) along orthonormal `directions` (D, R).

    Without `directions` the features lie along their principal directions already. `rest` is the mean variance along
    all other directions, None where these are all that rows vary in.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor | None = None
    rest: float | None = None

    def inverse(self, gradient: Tensor, curvature: Tensor, l2: Tensor | float) -> Tensor:
        """A gradient (…, K, D) over the curvature (…, K, 1) times the covariance plus `l2`."""
        along = curvature * self.variances + l2
        if self.directions is None:
            return gradient / along
        if self.rest is None:
            return (gradient @ self.directions / along) @ self.directions.T
        beyond = curvature * self.rest + l2
        share = (gradient @ self.directions) * (1 / along - 1 / beyond)
        return torch.addcdiv(share @ self.directions.T, gradient, beyond)


def spectrum_bytes(rows: int, width: int) -> int:
    """The memory that finding the spectrum of so many rows and columns takes at its peak."""
    few = min(rows, width)
    square, long = (few * few, width * few) if few <= EXACT else (width * SKETCH, 0)
    return 40 * square + 4 * long  # five in float64: what is decomposed, its vectors, and twice that to work in


def spectrum(rows: Rows) -> Spectrum:
    """The spectrum of rows (n, D): all directions, at most n, where they are at most `EXACT`, else a sketch."""
    if min(len(rows), rows.width) > EXACT:
        return sketch(rows)
    return _by_columns(rows) if rows.width <= len(rows) else _by_rows(rows)


def _by_columns(rows: Rows) -> Spectrum:
    total = torch.zeros(rows.width, dtype=torch.float64, device=rows.device)
    gram = torch.zeros(rows.width, rows.width, dtype=torch.float64, device=rows.device)
    for _, block in rows.blocks(short_steps(rows)):
        total += block.sum(dim=0)
        gram += block.T @ block
    mean = total / len(rows)
    variances, directions = torch.linalg.eigh(gram / len(rows) - torch.outer(mean, mean))
    return Spectrum(mean.float(), variances.clamp_min(0).float(), directions.float())


def _by_rows(rows: Rows) -> Spectrum:
    """From the inner products of rows (n, n): a penalised fit has no weight outside their span, so nothing is lost."""
    count, step = len(rows), short_steps(rows)
    products = torch.empty(count, count, dtype=torch.float64, device=rows.device)
    for here, block in rows.blocks(step):
        for there, other in rows.blocks(step):
            products[here, there] = (block @ other.T).double()
    products -= products.mean(dim=0)
    products -= products.mean(dim=1, keepdim=True)
    variances, shares = torch.linalg.eigh(products / count)
    kept = variances > RANK * variances[-1:]
    shares = (shares[:, kept] / (count * variances[kept]).sqrt()).float()
    mean = torch.zeros(rows.width, dtype=torch.float64, device=rows.device)
    directions = torch.zeros(rows.width, shares.shape[1], device=rows.device)
    for part, block in rows.blocks(step):
        mean += block.sum(dim=0) / count
        directions.addmm_(block.T, shares[part])
    return Spectrum(mean.float(), variances[kept].float(), directions)


def sketch(rows: Rows) -> Spectrum:
    """The largest directions from one pass, by a random projection (Nyström: Frangella et al., arXiv 2110.02820)."""
    drawn = _drawn(rows, SKETCH)
    image, mean, power = _image(rows, drawn)
    shift = 1e-6 * float(torch.linalg.vector_norm(image))  # above rounding: it keeps the core positive
    core = drawn.T @ image + shift * torch.eye(SKETCH, device=rows.device)
    root = torch.linalg.cholesky((core + core.T) / 2)
    half = torch.linalg.solve_triangular(root, (image + shift * drawn).T, upper=False).T
    squares, turns = torch.linalg.eigh(half.T @ half)
    directions = half @ (turns / squares.clamp_min(shift).sqrt())
    variances = (squares - shift).clamp_min(0)
    rest = power - float(mean.square().sum()) - float(variances.sum())
    return Spectrum(mean.float(), variances.float(), directions.float(), max(0.0, rest) / (rows.width - SKETCH))


def principal(rows: Rows, count: int, memory: int) -> Tensor:
    """The `count` orthonormal directions (D, count) along which rows (n, D) vary most, the largest first.

    Fewer where rows vary in fewer. Of more than `EXACT` directions the first `SKETCH` come from subspace iteration, as
    do all where finding them exactly takes more than `memory` bytes; the variance along these is within a hundredth of
    the most that so many directions can have.
    """
    few = min(len(rows), rows.width)
    if few > EXACT and (count <= SKETCH or 40 * few * few + 4 * rows.width * few > memory):
        return _iterated(rows, count)
    found = _by_columns(rows) if rows.width <= len(rows) else _by_rows(rows)
    assert found.directions is not None
    return found.directions.flip(1)[:, :count].contiguous()


def _iterated(rows: Rows, count: int) -> Tensor:
    """Subspace iteration with a few directions to spare (Halko, Martinsson & Tropp, arXiv 0909.4061, 4.4)."""
    basis = _drawn(rows, min(rows.width, count + SPARE))
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(_image(rows, basis)[0]).Q
    core = basis.T @ _image(rows, basis)[0]
    _, turns = torch.linalg.eigh((core + core.T) / 2)
    return (basis @ turns.flip(1)[:, :count]).float()


def _drawn(rows: Rows, count: int) -> Tensor:
    """Random orthonormal directions (D, count), the same on every call."""
    drawn = torch.randn(rows.width, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.to(rows.device)


def _image(rows: Rows, along: Tensor) -> tuple[Tensor, Tensor, float]:
    """The covariance times directions (D, R); beside it the rows' mean (D,) and mean squared length, from one pass."""
    total, power = torch.zeros(rows.width, dtype=torch.float64, device=rows.device), 0.0
    image, projection = torch.zeros_like(along), along.float()
    for _, block in rows.blocks(short_steps(rows)):
        total += block.sum(dim=0)
        image += block.T @ (block @ projection)
        power += float(block.square().sum())
    mean = total / len(rows)
    return image / len(rows) - torch.outer(mean, mean @ along), mean, power / len(rows)


def turned(rows: Rows, along: Tensor) -> Kept:
    """Centred rows along directions (D, R): (n, R)."""
    scores = torch.empty(len(rows), along.shape[1], device=rows.device)
    for part, block in rows.blocks(steps(rows)):
        torch.mm(block, along, out=scores[part])
    return Kept(scores.sub_(scores.mean(dim=0)))
