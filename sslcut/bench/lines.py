"""An outcome as aligned lines for people (no torch)."""

from sslcut.bench.goals import Fact, Verdict
from sslcut.bench.outcome import Outcome, Row


def lines(outcome: Outcome, judged: bool = True) -> list[str]:
    """A heading, a table with a line a contender, who is absent, and a line a goal.

    `judged` is false where the problem is smaller than the goals mean.
    """
    rows = [_cells(outcome, row) for row in outcome.rows]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    grid = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    aligned = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))])
        for name, *cells in grid
    ]
    absent = [f"{name}: {why}" for name, why in outcome.absent.items()]
    told = [_verdict(verdict, judged) for verdict in outcome.verdicts]
    heading = f"{outcome.title}  ({outcome.rounds} round{'s' if outcome.rounds > 1 else ''})"
    return [heading, *(f"  {line}" for line in (*aligned, *absent, *told))]


def number(value: Fact) -> str:
    """Three digits that count; several numbers side by side; a text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return " ".join(map(number, value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or not value else f"{value:.1e}"


def _cells(outcome: Outcome, row: Row) -> dict[str, str]:
    cells = {
        "": row.name + (f" ({row.note})" if row.note else ""),
        "seconds": number(row.time.value),
        "quartiles": f"{number(row.time.low)}–{number(row.time.high)}",
    }
    if (rate := outcome.rate(row)) is not None:
        cells[f"{outcome.unit}/s"] = number(rate)
    if outcome.memory and row.space is not None:
        cells[f"{outcome.memory} MB"] = f"{row.space.value:,.0f}"
    return {**cells, **{name: number(fact) for name, fact in row.facts.items()}}


def _verdict(verdict: Verdict, judged: bool) -> str:
    if verdict.measured is None:
        return f"goal: {verdict.goal}: there is nothing to compare with"
    spread = verdict.measured
    span = f" ({number(spread.low)}–{number(spread.high)})" if spread.low < spread.high else ""
    word = ("reached" if verdict.reached else "NOT REACHED") if judged else "judged at full size only"
    against = f" × {verdict.against}" if verdict.against else ""
    return f"goal: {verdict.goal}: {number(spread.value)}{against}{span}, {word}"
