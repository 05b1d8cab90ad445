"""The linear probe: multinomial logistic regression at five L2 values, on one layer and on ten."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.drawn import draw_features
from sslcut.bench.goals import Fact, Ratio, Same
from sslcut.bench.setting import Setting
from sslcut.metrics.design import Affine, Design
from sslcut.metrics.logistic import logistic

ROWS, WIDTH, CLASSES = 50_000, 512, 10
LAYERS, LAYERS_ROWS = 10, 10_000  # fewer rows, since scikit-learn takes half a minute and more for each layer of 50,000
L2 = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
STEPS = 1000  # so that scikit-learn ends by its tolerance and not by its count, which is 100 else


def linear(setting: Setting) -> Iterator[Contest]:
    """Logistic regression at five L2 values, 50,000 × 512, 10 classes, against scikit-learn's."""
    setting.open_device()
    layer = _layer(setting.scaled(ROWS, least=1000), seed=0)
    yield _contest([layer], "one layer", Ratio("at least", 3, "peer"), (3, 9))
    layers = [_layer(setting.scaled(LAYERS_ROWS, least=1000), seed) for seed in range(LAYERS)]
    yield _contest(layers, f"{LAYERS} layers", Ratio("at least", 5, "peer"), (1, 3))


_Drawn = tuple[Tensor, Tensor]  # features (n, D), standardised, and their classes (n,)


def _layer(rows: int, seed: int) -> _Drawn:
    features, labels = draw_features(rows, WIDTH, CLASSES, seed)
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    return features.sub_(mean).div_(deviation), labels


def _contest(layers: Sequence[_Drawn], told: str, goal: Ratio, rounds: tuple[int, int]) -> Contest:
    check = partial(_objectives, layers[0])
    size = " × ".join(f"{side:,}" for side in layers[0][0].shape)
    return Contest(
        f"logistic regression, {len(L2)} L2 values, {size}, {CLASSES} classes, {told}, on the CPU",
        [
            Contender("sslcut", partial(_ours, layers), note="float32", check=check),
            Contender("scikit-learn", _sklearn(layers), "peer", "float32, lbfgs", check),
        ],
        goals=[goal, Same("objective", 1e-4)],
        count=len(layers) * len(L2),
        unit="fits",
        rounds=rounds,
        memory="added",
    )


def _ours(layers: Sequence[_Drawn]) -> list[Affine]:
    return [logistic(Design(features), labels, CLASSES, torch.tensor(L2)) for features, labels in layers]


def _sklearn(layers: Sequence[_Drawn]) -> Callable[[], list[Affine]]:
    from sklearn.linear_model import LogisticRegression

    def fit(features: Tensor, labels: Tensor, l2: float) -> Any:
        model = LogisticRegression(C=1 / (len(labels) * l2), max_iter=STEPS)
        return model.fit(features.numpy(), labels.numpy())

    def fit_all() -> list[Affine]:
        found = []
        for features, labels in layers:
            models = [fit(features, labels, l2) for l2 in L2]
            weights = torch.stack([torch.from_numpy(model.coef_) for model in models])
            found.append(Affine(weights, torch.stack([torch.from_numpy(model.intercept_) for model in models])))
        return found

    return fit_all


def _objectives(layer: _Drawn, found: Sequence[Affine]) -> dict[str, Fact]:
    """What each fit of the first layer reached, mean cross-entropy + l2 / 2 · ‖W‖², in float64."""
    features, labels = layer
    reached = []
    for place, l2 in enumerate(L2):
        weights, intercepts = found[0].weights[place].double(), found[0].intercepts[place].double()
        loss = F.cross_entropy(features.double() @ weights.T + intercepts, labels)
        reached.append(float(loss + l2 / 2 * weights.square().sum()))
    return {"objective": tuple(reached)}
