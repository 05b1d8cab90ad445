"""A table that redraws itself on a terminal: a line for each piece of work that goes on side by side with others.

A part of the command line's room, like `screen`. Brings rich.
"""

from rich.console import Console
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from sslcut.events import Row

MARKS = {"waiting": "dim", "running": "", "done": "green", "failed": "red"}
KEPT_FREE = 4  # lines of the terminal that are not the table's


class Table:
    """The last row of each piece of work; where they are more than the terminal has lines, those at work alone."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.console = Console(stderr=True)
        self._live = Live(console=self.console, get_renderable=self.grid, refresh_per_second=4)
        self._live.start()

    def update(self, row: Row) -> None:
        """Put a row in the place of the one before."""
        self.rows[row.of] = row

    def stop(self) -> None:
        """Leave the table as it is and end the redrawing."""
        self._live.stop()

    def grid(self) -> Grid:
        """The table as it is now."""
        grid = Grid.grid(padding=(0, 2))
        rows = list(self.rows.values())
        if len(rows) > self.console.height - KEPT_FREE:
            states = [row.state for row in rows]
            counts = ", ".join(f"{states.count(state)} {state}" for state in MARKS if state in states)
            rows = [*(row for row in rows if row.state == "running"), Row(counts, f"{len(states)} cells", "waiting")]
        for row in rows:
            grid.add_row(Text(row.of, no_wrap=True), Text(row.text, style=MARKS[row.state], no_wrap=True))
        return grid
