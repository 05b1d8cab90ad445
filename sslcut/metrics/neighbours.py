"""The rows of a bank that are most similar to each query, exactly, in blocks.

On a CPU what misses a query's bar is dropped; on a GPU, which sorts faster than it is told what to drop, all of a block
is sorted.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUPS, QUERIES, ROWS = 2, 768, 4096  # groups of queries that share a reading of the bank; what meets at a time
ASKED, SHELVED = 2**21, 2**20  # numbers of all those queries, and of a block of the bank, that are held at most
FEW = 256  # rows that are rounded at a time, so that what that takes beside them is small
RUN = 64  # rows of the bank that stay together, so that a mapped file is read in long pieces
ROOM = 2  # times k, what is held of each query before it is sorted
WIDE = 128  # numbers of a row from which a product in bfloat16 saves more time than checking it takes
SPARE = 6  # columns to a wanted rank from which the first bar is read; more of them only cost time
SPARSE = 16  # where more than one pair in this many may reach the bar, the whole block is sorted
TILE = 1024, 2**16  # queries and rows that meet at a time on a GPU: 256 MB of similarities
FAR = 2**26  # numbers of a block of the bank on a GPU


def neighbours(
    features: Tensor, bank: Tensor, queries: Tensor, k: int, asking: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The k rows of `bank` (N,) with the largest cosine similarity to each of `queries` (Q,), some queries at a time.

    Yields those queries (q,), their similarities and the rows: (q, k) each, on the CPU, best first; every query once,
    in no promised order. Queries are rows of `features` too, or of `asking` where given, on the same device. Both are
    (N, D), of any floating type, in memory or memory-mapped, and are read in blocks: less than 64 MB is held beside
    them on a CPU, and 8 bytes for each row of the bank. The similarities are float32's; a row of zeros has 0 to all.
    k is at most N.
    """
    if features.device.type != "cpu":
        yield from _sorted(features, bank, queries, k, features if asking is None else asking)
        return
    shelves = _Bank(features, bank, features if asking is None else asking)
    missed = queries[:0]
    for part, similarities, rows, sure in shelves.search(queries, k, _likely_rank(k, 1 / shelves.blocks)):
        missed = torch.cat([missed, part[~sure]])
        yield part[sure], similarities[sure], rows[sure]
    for part, similarities, rows, _ in shelves.search(missed, k, k):
        yield part, similarities, rows


def _likely_rank(k: int, share: float) -> int:
    """The rank within a `share` of the bank that k rows of the whole bank reach, but for one query in a thousand."""
    expected = k * share
    return min(k, int(expected + 3 * (expected * (1 - share)) ** 0.5) + 1)


def _sorted(
    features: Tensor, bank: Tensor, queries: Tensor, k: int, asking: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """`neighbours` on a GPU: the k best of every block are sorted in among the best so far."""
    few, many = TILE[0], max(1, min(TILE[1], FAR // features.shape[1]))
    for part in torch.split(queries, few):
        asked = _unit(asking, part)
        best = asked.new_empty(len(part), 0)
        rows = torch.empty(len(part), 0, dtype=torch.int64, device=features.device)
        for shelf in torch.split(bank, many):
            found = (asked @ _unit(features, shelf).T).topk(min(k, len(shelf)), dim=1)
            there = shelf.to(features.device)[found.indices]
            both = torch.cat([best, found.values], dim=1)
            best, places = both.topk(min(k, both.shape[1]), dim=1)
            rows = torch.cat([rows, there], dim=1).gather(1, places)
        yield part, best.cpu(), rows.cpu()


def _unit(features: Tensor, rows: Tensor) -> Tensor:
    """The `rows` of features at unit length, (n, D) float32; a row of zeros stays one."""
    exact = features.index_select(0, rows.to(features.device)).float()
    return exact.mul_(_scale(exact))


def _scale(exact: Tensor) -> Tensor:
    """What rows (n, D) are multiplied by to be of unit length, (n, 1)."""
    return torch.linalg.vector_norm(exact, dim=1, keepdim=True).clamp_min(1e-12).reciprocal()


@dataclass(frozen=True)
class _Units:
    """Rows at unit length, (n, D) float32; and, where there is a centre, what stands for them in bfloat16.

    For unit rows a, b and a centre m, ab = (a - m)(b - m) + am + (b - m)m. What is left of the rows is short, so that
    little is lost by rounding it: `rounded` holds it, with two more columns that carry the last term. The product of
    two `rounded` lies the query's `shift` am below their similarity, give or take
    |xy - x'y'| <= |x - x'| |y| + |x'| |y - y'|, of which `length` is |x| and `lost` |x - x'|: (n, 1) each.
    """

    exact: Tensor
    rounded: Tensor | None = None
    shift: Tensor | float = 0.0
    length: Tensor | float = 0.0
    lost: Tensor | float = 0.0


def _asked(features: Tensor, rows: Tensor, centre: Tensor | None) -> _Units:
    """The `rows` of features as queries."""
    exact = _unit(features, rows)
    if centre is None:
        return _Units(exact)
    rounded = torch.ones(len(exact), exact.shape[1] + 2, dtype=torch.bfloat16)
    return _Units(exact, rounded, *torch.split(_round(exact, centre, rounded[:, :-2]), 1, dim=1))


def _round(exact: Tensor, centre: Tensor, rounded: Tensor) -> Tensor:
    """Puts rows (n, D) less the centre into `rounded`.

    Gives the rows' product with the centre, the length of what is left of them, and of what rounding lost: (n, 3).
    """
    told = torch.empty(len(exact), 3)
    for start in range(0, len(exact), FEW):
        part = slice(start, start + FEW)
        product, length, lost = told[part].unbind(dim=1)
        away = exact[part] - centre
        rounded[part] = away
        torch.mv(exact[part], centre, out=product)
        torch.linalg.vector_norm(away, dim=1, out=length)
        torch.linalg.vector_norm(away.sub_(rounded[part]), dim=1, out=lost)
    return told


class _Bank:
    """The rows among which is searched, read block by block."""

    def __init__(self, features: Tensor, bank: Tensor, asking: Tensor) -> None:
        self.features, self.bank, self.asking = features, bank, asking
        width = features.shape[1]
        self.blocks = -(-len(bank) // max(RUN, min(ROWS, SHELVED // width)))
        self.longest = -(-len(bank) // self.blocks) + RUN
        self.centre = _unit(features, self._rows(0)).mean(dim=0) if _rounding_pays(features) else None
        self._room = _Room(self.blocks, self.longest, width, self.centre is not None)
        self._lengths: dict[int, tuple[float, float]] = {}

    def search(self, queries: Tensor, k: int, rank: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Lets queries meet every block, some groups in each reading of the bank; yields each group and its best."""
        size = max(1, min(QUERIES, ASKED // (GROUPS * self.features.shape[1])))
        table = _Table(size, self.longest, self.centre is not None)
        for start in range(0, len(queries), GROUPS * size):
            some = queries[start : start + GROUPS * size]
            parts = [some[at : at + size] for at in range(0, len(some), size)]
            searches = [_Search(_asked(self.asking, part, self.centre), k, rank) for part in parts]
            for number in range(self.blocks):
                self._meet(number, searches, table)
            for part, search in zip(parts, searches, strict=True):
                yield part, *search.best()

    def _meet(self, number: int, searches: "list[_Search]", table: "_Table") -> None:
        rows = self._rows(number)
        shelf = self._shelf(number, rows)
        for search in searches:
            search.meet(shelf, rows, table)

    def _shelf(self, number: int, rows: Tensor) -> _Units:
        """A block's `rows`, in room that the next block takes; their `length` and `lost` are the block's largest."""
        exact, rounded, scale, last = self._room.of(number, len(rows))
        if self.features.dtype == exact.dtype:
            torch.index_select(self.features, 0, rows, out=exact)
        else:
            exact.copy_(self.features.index_select(0, rows))
        if number not in self._lengths:
            scale.copy_(_scale(exact))
        exact *= scale
        if self.centre is None:
            self._lengths[number] = 1.0, 0.0
            return _Units(exact)
        if number not in self._lengths:
            product, length, lost = _round(exact, self.centre, rounded[:, :-2]).unbind(dim=1)
            shift = product - self.centre.dot(self.centre)
            last[:, 0] = shift
            last[:, 1] = shift - last[:, 0]
            # numbers, since small tensors that stay would lie between large ones of the heap and keep them apart
            self._lengths[number] = float(length.amax()), float(lost.amax())
        else:
            torch.sub(exact, self.centre, out=rounded[:, :-2])
        rounded[:, -2:] = last
        return _Units(exact, rounded, 0.0, *self._lengths[number])

    def _rows(self, number: int) -> Tensor:
        """The rows of one block: every `blocks`-th run, so that it is like the whole where classes lie together."""
        starts = torch.arange(number * RUN, len(self.bank), self.blocks * RUN)
        places = (starts[:, None] + torch.arange(RUN)).flatten()
        return self.bank[places[places < len(self.bank)]]


class _Room:
    """Room for the rows of one block at a time, made once; and what every reading of a block would find again."""

    def __init__(self, blocks: int, longest: int, width: int, rounding: bool) -> None:
        self.exact = torch.empty(longest, width)
        self.scale = torch.empty(blocks, longest, 1)  # makes rows as long as one
        self.rounded = torch.empty(longest if rounding else 0, width + 2, dtype=torch.bfloat16)
        self.last = torch.empty(blocks, len(self.rounded), 2, dtype=torch.bfloat16)  # two columns of what is rounded

    def of(self, number: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For a block of `count` rows: `exact`, `rounded`, `scale` and `last`."""
        exact, rounded = self.exact[:count], self.rounded[:count]
        return exact, rounded, self.scale[number, :count], self.last[number, :count]


def _rounding_pays(features: Tensor) -> bool:
    """Whether products in bfloat16 are at least twice as fast (AVX-512 BF16 or AMX), and the rows wide enough."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # False where torch cannot say
    return features.shape[1] >= WIDE and bool(supported())


class _Table:
    """The similarities of a group of queries and a block, and which of them reach the bar; made once, used again."""

    def __init__(self, queries: int, rows: int, rounded: bool) -> None:
        dtype = torch.bfloat16 if rounded else torch.float32
        self._similarities = torch.empty(queries * rows, dtype=dtype)
        self._reach = torch.empty(queries * rows, dtype=torch.bool)

    def product(self, asked: Tensor, shelf: Tensor) -> Tensor:
        """The similarities (q, W) of rows (q, D) and (W, D)."""
        shape = len(asked), len(shelf)
        return torch.mm(asked, shelf.T, out=self._similarities[: shape[0] * shape[1]].view(shape))

    def reach(self, tile: Tensor, floor: Tensor) -> Tensor:
        """Where a tile (q, W) reaches the floor (q, 1), or did before it was rounded to bfloat16: (q, W) bool."""
        reach = self._reach[: tile.numel()].view(tile.shape)
        floor = floor.to(tile.dtype)  # rounding keeps order: what reached the floor reaches the rounded floor
        if tile.dtype == torch.bfloat16 and floor.amin() > 0:  # numbers above zero are ordered as their bits are
            tile, floor = tile.view(torch.int16), floor.view(torch.int16)  # compared twice as fast
        return torch.ge(tile, floor, out=reach)


@dataclass(frozen=True)
class _Pairs:
    """Queries and columns of a block that go together, (n,), query by query: those of query i from `starts[i]` on."""

    starts: Tensor
    query: Tensor
    column: Tensor


class _Search:
    """The k best rows of each of a group of queries so far, and room for others until it is full.

    The bar is first the similarity of that `rank` in the first block, then the k-th best so far. What lies below it
    is dropped, so the k best are sure where they all reach the first bar; with rank k they do.
    """

    def __init__(self, asked: _Units, k: int, rank: int) -> None:
        self._asked, self._k, self._rank = asked, k, rank
        count = len(asked.exact)
        self._similarities = torch.full((count, ROOM * k), -torch.inf)
        self._rows = torch.zeros((count, ROOM * k), dtype=torch.int32)
        self._held = torch.zeros(count, dtype=torch.int64)
        self._bar = self._first = torch.full((count, 1), -torch.inf)
        self._begun = False

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities and rows of each query's k best, (q, k) each, best first, and whose are sure, (q,) bool."""
        self._settle()
        similarities, rows = self._similarities[:, : self._k], self._rows[:, : self._k]
        sure = similarities[:, -1:] >= self._first
        return similarities, rows.long(), sure.squeeze(1)

    def meet(self, shelf: _Units, rows: Tensor, table: _Table) -> None:
        """Keeps what reaches the bar in a block of the bank, which has these `rows`."""
        asked = self._asked
        tile, margin = _product(asked, shelf, table)
        if not self._begun and self._rank <= len(rows):
            self._bar = self._first = _ranked(tile, self._rank) + asked.shift - margin
        self._begun = True
        pairs = _pairs(table.reach(tile, self._bar - asked.shift - margin), (ROOM - 1) * self._k)
        if pairs is None:  # too many: a dead layer, or a small bank
            exact = tile if asked.rounded is None else asked.exact @ shelf.exact.T
            pairs, similarities = _largest(exact, self._k)
        elif asked.rounded is None:
            similarities = tile[pairs.query, pairs.column]
        else:
            similarities = _similarities(asked.exact, shelf.exact, pairs)
        self._add(pairs, rows.int()[pairs.column], similarities)

    def _add(self, pairs: _Pairs, rows: Tensor, similarities: Tensor) -> None:
        counts = pairs.starts.diff()
        if (self._held + counts).amax() > self._rows.shape[1]:
            self._settle()
        before = torch.arange(len(counts)) * self._rows.shape[1] + self._held - pairs.starts[:-1]
        places = before[pairs.query] + torch.arange(len(rows))
        self._similarities.view(-1)[places], self._rows.view(-1)[places] = similarities, rows
        self._held += counts

    def _settle(self) -> None:
        """Sorts what is held, keeps the k best, and raises the bar to the last of them."""
        k = self._k
        best = self._similarities.topk(k, dim=1)
        self._rows[:, :k] = self._rows.gather(1, best.indices)
        self._similarities[:, :k] = best.values
        self._similarities[:, k:] = -torch.inf
        self._held.clamp_(max=k)
        self._bar = torch.maximum(self._bar, best.values[:, -1:])


def _product(asked: _Units, shelf: _Units, table: _Table) -> tuple[Tensor, Tensor | float]:
    """Similarities less the shift, (q, W), and how far they may be from the exact ones but for their own rounding."""
    if asked.rounded is None or shelf.rounded is None:
        return table.product(asked.exact, shelf.exact), 0.0
    margin = asked.lost * shelf.length + (asked.length + asked.lost) * shelf.lost
    # the sum's own rounding, and what the two columns lose of the last term
    return table.product(asked.rounded, shelf.rounded), margin + 2.0**-23 * asked.exact.shape[1] + 2.0**-17


def _ranked(tile: Tensor, rank: int) -> Tensor:
    """What at least `rank` numbers of each row of a tile exceed, (q, 1): of that rank among the largest of groups."""
    fold = max(1, tile.shape[1] // (SPARE * rank))
    width = tile.shape[1] // fold
    largest = tile[:, : width * fold].view(len(tile), fold, width).amax(dim=1)
    reached = largest.topk(rank, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return torch.nextafter(reached, torch.full_like(reached, -torch.inf)).float()


def _pairs(reach: Tensor, most: int) -> _Pairs | None:
    """Where a tile (q, W) is true; None where that is more than one place in `SPARSE`, or `most` of one query."""
    if reach.shape[1] % 8:
        reach = pad(reach, (0, -reach.shape[1] % 8))
    eights = reach.view(torch.int64).flatten()  # most are false, and so read eight at a time
    some = eights.nonzero().squeeze(1)
    bits = eights[some].view(torch.bool).view(-1, 8)
    if torch.count_nonzero(bits) * SPARSE > reach.numel():
        return None
    which, bit = bits.nonzero(as_tuple=True)
    place = some[which] * 8 + bit
    query = place // reach.shape[1]
    starts = torch.searchsorted(query, torch.arange(len(reach) + 1))
    return _Pairs(starts, query, place - query * reach.shape[1]) if starts.diff().amax() <= most else None


def _largest(tile: Tensor, k: int) -> tuple[_Pairs, Tensor]:
    """Each query's k largest of a tile, and their values (n,)."""
    values, columns = tile.topk(min(k, tile.shape[1]), dim=1)
    starts = torch.arange(len(tile) + 1) * columns.shape[1]
    query = torch.arange(len(tile)).repeat_interleave(columns.shape[1])
    return _Pairs(starts, query, columns.flatten()), values.flatten()


def _similarities(asked: Tensor, shelf: Tensor, pairs: _Pairs) -> Tensor:
    """The similarities of some pairs in float32: (n,)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # torch calls its sparse rows a beta
        zeros, size = torch.zeros(len(pairs.column)), (len(asked), len(shelf))
        wanted = torch.sparse_csr_tensor(pairs.starts, pairs.column, zeros, size, check_invariants=False)
        found: Tensor = torch.sparse.sampled_addmm(wanted, asked, shelf.T, beta=0.0)
    return found.values()
