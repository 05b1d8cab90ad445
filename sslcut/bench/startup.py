"""How long the command line takes to say something: `--help`, and the commands that never import torch."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sslcut.bench.contest import Contender, Contest
from sslcut.bench.goals import Ratio
from sslcut.bench.peers import peer
from sslcut.bench.processes import SSLCUT, spent
from sslcut.bench.setting import Setting

BARE = "import typer, rich"
PROGRAMS = Path(sys.executable).parent


def startup(setting: Setting) -> Iterator[Contest]:
    """`sslcut --help` and the start of `guillotine`, against a Python that imports typer and rich."""
    with TemporaryDirectory() as name:
        run = partial(partial, spent, folder=Path(name))
        yield Contest(
            "start of the command line, whole processes",
            [
                Contender("sslcut --help", run([*SSLCUT, "--help"])),
                Contender(f'python -c "{BARE}"', run([sys.executable, "-c", BARE]), role="reference"),
                Contender("sslcut guillotine --help", run([*SSLCUT, "guillotine", "--help"]), role="other"),
                peer("stable-pretraining", lambda: Contender("spt --help", run([PROGRAMS / "spt", "--help"]), "peer")),
            ],
            goals=[Ratio("at most", 2, "reference")],
            memory="peak",
        )
