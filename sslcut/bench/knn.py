"""Weighted nearest neighbours, k = 200 and T = 0.1, of 10,000 rows among 50,000."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sslcut.bench.contest import MEGABYTE, Contender, Contest
from sslcut.bench.drawn import draw_features
from sslcut.bench.goals import Bound, Fact, Ratio
from sslcut.bench.memory import Watch
from sslcut.bench.peers import peer
from sslcut.bench.setting import Setting
from sslcut.data.images import Task
from sslcut.metrics import knn as metric
from sslcut.metrics.layer import Fold, Layer

BANK, QUERIES, WIDTH, CLASSES = 50_000, 10_000, 512, 10
K, T = 200, 0.1
CHUNK = 256  # queries at a time, where the caller chooses


def knn(setting: Setting) -> Iterator[Contest]:
    """kNN of 10,000 rows among 50,000 × 512, against lightly, faiss, scikit-learn and plain torch."""
    setting.open_device()
    bank, queries = setting.scaled(BANK, least=10 * K), setting.scaled(QUERIES, least=100)
    features, labels = draw_features(bank + queries, WIDTH, CLASSES)
    known, asked = (features[:bank], labels[:bank]), features[bank:]
    check = partial(_accuracy, labels[bank:])
    yield Contest(
        f"kNN, {queries:,} against {bank:,} × {WIDTH}, {CLASSES} classes, k={K} T={T}, on the CPU",
        [
            Contender(
                "sslcut",
                partial(_ours, features, labels, bank),
                check=lambda predicted: check(predicted) | {"MB alone": _alone(bank, queries, setting.cores)},
            ),
            Contender("plain torch", partial(_plain, *known, asked), "reference", f"chunks of {CHUNK}", check),
            peer(
                "lightly", lambda: Contender("lightly", _lightly(*known, asked), "peer", f"batches of {CHUNK}", check)
            ),
            peer("faiss-cpu", lambda: Contender("faiss", _faiss(*known, asked, setting.cores), "peer", check=check)),
            Contender("scikit-learn", _sklearn(*known, asked), "peer", "brute", check),
        ],
        goals=[Ratio("at least", 1, "peer"), Bound("MB alone", 64)],
        count=queries,
        unit="queries",
        memory="added",
    )


def _accuracy(truth: Tensor, predicted: Any) -> dict[str, Fact]:
    return {"accuracy": float((torch.as_tensor(predicted) == truth).float().mean())}


def _alone(bank: int, queries: int, threads: int) -> float:
    """The memory that the probe adds to a process of its own: here the others' heaps would be counted with it."""
    code = f"from sslcut.bench.knn import added; print(added({bank}, {queries}, {threads}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def added(bank: int, queries: int, threads: int) -> float:
    """The megabytes that the probe adds at its peak, once torch has loaded what its first products need."""
    torch.set_num_threads(threads)
    features, labels = draw_features(bank + queries, WIDTH, CLASSES)
    few = min(len(features), 20 * K)
    _ours(features[:few].clone(), labels[:few], 19 * few // 20)
    with Watch() as watch:
        _ours(features, labels, bank)
    return (watch.added or 0) / MEGABYTE


def _ours(features: Tensor, labels: Tensor, bank: int) -> Tensor:
    """The probe itself, with half of the queries as its validation rows; it votes at k = 20 too."""
    task = Task("class", labels, tuple(map(str, range(CLASSES))))
    known, asked = torch.arange(len(features)).tensor_split([bank])
    validation, test = asked.tensor_split(2)
    fold = Fold(known, validation, test, refit=known)
    fits = metric.knn([Layer("drawn", "vector", features)], {"class": task}, [fold])
    fit = next(fit for fit in fits if fit.setting == f"k={K} T={T}")
    return torch.cat([fit.validated[validation], fit.tested[test]])


def _plain(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    shelf, predicted = F.normalize(bank, dim=1).T, []
    for part in torch.split(F.normalize(queries, dim=1), CHUNK):
        similarities, rows = (part @ shelf).topk(K)
        votes = torch.zeros(len(part), CLASSES).scatter_add_(1, labels[rows], (similarities / T).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)


def _lightly(bank: Tensor, labels: Tensor, queries: Tensor) -> Callable[[], Tensor]:
    from lightly.utils.benchmarking.knn import knn_predict

    def predict() -> Tensor:
        shelf = F.normalize(bank, dim=1).T.contiguous()  # as its KNNClassifier keeps it
        parts = torch.split(F.normalize(queries, dim=1), CHUNK)
        return torch.cat([knn_predict(part, shelf, labels, CLASSES, K, T)[:, 0] for part in parts])

    return predict


def _faiss(bank: Tensor, labels: Tensor, queries: Tensor, threads: int) -> Callable[[], Tensor]:
    import faiss

    faiss.omp_set_num_threads(threads)

    def predict() -> Tensor:
        index = faiss.IndexFlatIP(bank.shape[1])
        index.add(F.normalize(bank, dim=1).numpy())
        similarities, rows = map(torch.from_numpy, index.search(F.normalize(queries, dim=1).numpy(), K))
        votes = torch.zeros(len(queries), CLASSES)
        return votes.scatter_add_(1, labels[rows], (similarities / T).exp()).argmax(dim=1)

    return predict


def _sklearn(bank: Tensor, labels: Tensor, queries: Tensor) -> Callable[[], Any]:
    from sklearn.neighbors import KNeighborsClassifier

    def weigh(distances: Any) -> Any:
        return torch.from_numpy((1 - distances) / T).exp().numpy()

    def predict() -> Any:
        model = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=weigh)
        return model.fit(bank.numpy(), labels.numpy()).predict(queries.numpy())

    return predict
