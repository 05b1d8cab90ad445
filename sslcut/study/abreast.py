"""A sweep's cells side by side: each in a process of its own, with its share of the cores."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from select import select
from signal import Signals

from sslcut.errors import SslcutError
from sslcut.events import Aside, Event, Note, Result, Stage, Warn
from sslcut.interrupts import Interrupts, deferred
from sslcut.options import Options
from sslcut.study.arithmetic import Decisions
from sslcut.study.outcome import begins, ended, failed, followed, row
from sslcut.study.process import Process
from sslcut.study.sharing import Work, progress
from sslcut.training.world import use_threads

TICK = 0.2  # seconds between two looks at processes that say nothing


def side_by_side(works: Sequence[Work], options: Options, decisions: Decisions) -> Iterator[Event]:
    """Run the cells, `options.jobs` at a time, as soon as what they share is there; a failure is told, not raised.

    SIGINT and SIGTERM are handed to every process once, and raised here when all have saved their states.
    """
    with deferred() as interrupts, closing(_Crew(works, options, decisions, interrupts)) as crew:
        yield Note(f"{min(options.jobs, len(works))} cells side by side, threads each: {crew.threads}")
        yield from crew.decide()
        yield from crew.run()
        interrupts.check("what is done is kept, and the same command goes on from it")


class _Crew:
    """The processes that are at work."""

    def __init__(self, works: Sequence[Work], options: Options, decisions: Decisions, interrupts: Interrupts) -> None:
        self.works, self.options, self.decisions, self.interrupts = works, options, decisions, interrupts
        jobs = min(options.jobs, len(works))
        self.threads = max(1, (options.threads or use_threads(None)) // jobs)
        self.running: dict[Work, Process] = {}
        self.told: Signals | None = None

    def decide(self) -> Iterator[Event]:
        """Measure the precision of each kind of training that has none yet, while nothing else runs."""
        trains = [work for work in self.works if work.trains is not None and "pretrain" not in work.leaders]
        for work in trains:
            if progress(work) < 2:
                self.decisions.learn(work)
        for work in [work for work in trains if progress(work) > 0]:
            if not self.decisions.open(work.cell.recipe) or self.interrupts.pending is not None:
                continue
            yield row(work, "measuring the precision")
            self.start(work, None)
            while self.running:
                for each, event in self.look():
                    if isinstance(event, Result):
                        self.decisions.enter(each.cell.recipe, event.numbers)
                self.leave()
            yield row(work, "waiting", "waiting")

    def run(self) -> Iterator[Event]:
        """Run all cells to their ends."""
        waiting = list(self.works)
        while self.running or (waiting and self.interrupts.pending is None):
            for work in [work for work in waiting if work.doomed is not None]:
                waiting.remove(work)
                yield from followed(work, work.doomed or work)
            while self.interrupts.pending is None and len(self.running) < self.options.jobs:
                ready = next((work for work in waiting if work.ready), None)
                if ready is None:
                    break
                waiting.remove(ready)
                yield row(ready, "starting", told=f"cell {ready.number} of {len(self.works)}: {ready.name}")
                self.start(ready, ready.leaders)
            for work, event in self.look():
                yield from self.heard(work, event)
            for work, fault in self.leave():
                yield from self.left(work, fault)

    def start(self, work: Work, follows: Collection[str] | None) -> None:
        """Begin a cell's process; of threads that nobody asked for it knows by its environment, as by itself."""
        threads = None if self.options.threads is None else self.threads
        how = replace(self.options, threads=threads, precision=self.decisions.of(work.cell.recipe))
        self.running[work] = Process(work, how, self.threads, follows)

    def look(self) -> Iterator[tuple[Work, Event]]:
        """What processes say, after a moment's wait; hands on a signal that has come."""
        select([process.pipe for process in self.running.values()], [], [], TICK)
        if self.interrupts.pending is not None and self.told is None:
            self.told = self.interrupts.pending
            for process in self.running.values():
                process.send(self.told)
        for work, process in self.running.items():
            yield from ((work, event) for event in process.events())

    def leave(self) -> list[tuple[Work, SslcutError | None]]:
        """The cells whose processes have ended, and what went wrong in each; they are at work no more."""
        over = [(work, process.outcome()) for work, process in self.running.items() if process.over]
        for work, _ in over:
            self.running.pop(work).close()
        return over

    def heard(self, work: Work, event: Event) -> Iterator[Event]:
        """What the user is told of an event in a cell."""
        if isinstance(event, Result):
            yield ended(work, event)
        elif isinstance(event, Stage):
            if event.done:
                work.done.add(event.text)
            else:
                yield begins(work, event)
        elif isinstance(event, Warn):
            yield Warn(f"{work.name}: {event.text}")
        elif isinstance(event, Note):
            yield Aside(f"{work.name}: {event.text}")
        else:
            yield row(work, event.line())

    def left(self, work: Work, fault: SslcutError | None) -> Iterator[Event]:
        """How a cell ended."""
        if self.told is not None and fault is not None:
            work.end = "interrupted"
            yield row(work, work.end, "waiting")
        elif fault is not None:
            yield from failed(work, fault)
        work.end = work.end or "done"

    def close(self) -> None:
        """End every process that is still at work."""
        for process in self.running.values():
            process.close()
