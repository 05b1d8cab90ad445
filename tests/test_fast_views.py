"""Whether fast views train as good a network as torchvision's own operators: SimCLR on shapes, paired over ten seeds.

    pytest -m directional -s tests/test_fast_views.py

trains twenty networks, which takes about thirteen minutes on two cores, and prints the figures. It fails unless the
difference is certainly smaller than two points.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from cli import sslcut

from sslcut.metrics.resample import t_quantile

SEEDS = range(10)
MARGIN = 2.0  # points of the mean over tasks: the smallest difference that is called one
SETS = [
    "data.train=10000", "data.test=4000", "train.epochs=5", "train.precision=float32",
    "stages=[pretrain, probe]", "probe.layers=[pool]", "probe.probes=[linear]", "probe.measures=[]",
    "probe.controls=[]", "probe.untrained=false", "probe.pixels=false", "probe.bootstrap=100",
]  # fmt: skip


def scores(folder: Path, seed: int, exact: bool) -> dict[str, float]:
    """What the default recipe's network scores at `pool`, in points by task, trained on fast or on exact views."""
    out = folder / f"{'exact' if exact else 'fast'}-{seed}"
    options = [*SETS, f"seed={seed}", f"views.exact={str(exact).lower()}"]
    done = sslcut("run", "-o", out, *(word for each in options for word in ("--set", each)), cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "probe-pretrain.json").read_text())["results"]
    return {row["task"]: 100 * row["value"] for row in rows}


def paired(differences: torch.Tensor) -> tuple[float, float]:
    """The mean of paired differences (n,) and half of its 95 % t interval."""
    count = len(differences)
    half = t_quantile(0.975, count - 1) * float(differences.std()) / math.sqrt(count)
    return float(differences.mean()), half


@pytest.mark.directional
def test_fast_views_do_not_train_another_network_than_exact_ones(tmp_path, capsys):
    fast, exact = ([scores(tmp_path, seed, kind) for seed in SEEDS] for kind in (False, True))
    tasks = list(fast[0])
    gains = torch.tensor([[f[task] - e[task] for task in tasks] for f, e in zip(fast, exact, strict=True)])  # (S, T)
    mean, half = paired(gains.mean(dim=1))
    with capsys.disabled():
        print(f"\nfast less exact views, points at `pool`, {len(gains)} seeds, 95 % t interval")
        for task, gain in zip(tasks, gains.T, strict=True):
            level = sum(scored[task] for scored in exact) / len(exact)
            print("{:>12} {:6.1f} {:+6.2f} ± {:.2f}".format(task, level, *paired(gain)))
        print(f"{'mean':>12} {'':6} {mean:+6.2f} ± {half:.2f}")
    assert abs(mean) + half < MARGIN
