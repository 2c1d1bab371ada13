"""The examples run, and say what they are expected to say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_collapse(capsys):
    left = runpy.run_path(str(EXAMPLES / "collapse.py"))
    printed = capsys.readouterr().out
    assert "nats per byte" in printed and "Collapses at t = " in printed
    assert left["losses"][4096:].mean() < 2.0
