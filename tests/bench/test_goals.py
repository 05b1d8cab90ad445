"""Each hot path reaches what it must; run with `pytest -m bench tests/bench`, on a machine that does nothing else."""

import json

import pytest
from cli import sslcut

from sslcut.registry import BENCHES


@pytest.mark.bench
@pytest.mark.parametrize("part", BENCHES)
def test_a_hot_path_reaches_its_goals_beside_every_peer(part, tmp_path):
    done = sslcut("bench", part, "--require-peers", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for contest in json.loads(done.stdout)["contests"]:
        missed = [goal for goal in contest["goals"] if not goal["reached"]]
        assert not missed and not contest["absent"], done.stderr
