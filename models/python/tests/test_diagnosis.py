"""`diagnose` gives what the program writes into report.json."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import spillway

# Time, and what belongs to a program that writes files.
OF_THE_RUN = {"seconds", "tokens_per_second", "try"}


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in OF_THE_RUN}
    if isinstance(value, list):
        return [without_times(entry) for entry in value]
    return value


def test_a_collapse_and_its_cure(shipped):
    report = spillway.diagnose(shipped, length=2048, streams=1, mitigations=["window:64"])
    assert report["format"] == "spillway-diagnosis" and report["complete"] and report["try"] is None
    assert report["train_length"] == 64 and report["verdict"]["collapsed"]
    runs = {run["mitigation"]: run for run in report["runs"]}
    assert list(runs) == ["none", "reset:64", "window:64"]
    assert not runs["window:64"]["verdict"]["collapsed"]
    assert runs["none"]["beyond"] > runs["window:64"]["beyond"] + 0.2
    assert report["summary"][0].startswith("Collapses at t = ")
    assert report["heads"][0].keys() >= {"layer", "head", "exit"}


def test_texts_of_every_kind(shipped, tmp_path):
    text = spillway.shipped_text()[:3000]
    path = tmp_path / "text.txt"
    path.write_text(text)

    def losses(given):
        report = spillway.diagnose(shipped, given, length=256, streams=1, mitigations="none")
        assert report["text"]["tokens"] == len(text.encode())
        return [bucket["mean"] for bucket in report["runs"][0]["loss"]]

    assert losses(text) == losses(shipped.tokenizer.encode(text)) == losses(path)


def test_the_report_is_that_of_the_program(shipped, tmp_path):
    program = os.environ.get("SPILLWAY_PROGRAM")
    if not program:
        pytest.skip("SPILLWAY_PROGRAM names no program; .ci/python sets it")
    folder = Path(tmp_path) / "out"
    options = ["--length", "512", "--streams", "1", "--mitigation", "window:64", "--mitigation", "state-norm:auto"]
    subprocess.run([program, "--quiet", "diagnose", "--out", folder, *options], check=True, capture_output=True)
    written = json.loads((folder / "report.json").read_text())
    found = spillway.diagnose(shipped, length=512, streams=1, mitigations=["window:64", "state-norm:auto"])
    # Calibrated numbers lie in a file beside the report, which there is none of here.
    for run in written["runs"]:
        run["spec"] = run["mitigation"]
    assert without_times(found) == without_times(written)
