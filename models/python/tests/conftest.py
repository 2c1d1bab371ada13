"""What the tests share: the shipped model, and the checkpoints of models/tests/golden with other people's numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import spillway

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "models"
TYPES = {"I64": np.int64, "F32": np.float32}
# How the folders' pages state the error of the peer's own code in f32.
STATED = ("differs from the float64 logits by rel-L2 ", "float32 run of the same code: rel-L2 ", "float32 run rel-L2 ")


@dataclass(frozen=True)
class Golden:
    """A small checkpoint, and what somebody else's code made of it in f64."""

    path: Path
    ids: np.ndarray
    logits: np.ndarray
    greedy: np.ndarray

    @property
    def tolerance(self) -> float:
        """Ten times the relative error of the peer's code in f32, as models/tests/architectures/golden.rs has it."""
        page = (self.path / "README.md").read_text()
        # A line for every prompt, with the error in the fifth of six columns.
        rows = [line.split("|") for line in page.splitlines()]
        in_table = [float(row[5]) for row in rows if len(row) == 8 and re.fullmatch(r" *[0-9.]+e[+-][0-9]+ *", row[5])]
        if in_table:
            return 10 * max(in_table)
        for words in STATED:
            if words in page:
                return 10 * float(re.split(r"[,; ]", page.split(words, 1)[1])[0].rstrip("."))
        raise AssertionError(f"{self.path}: README.md states no error of the peer's f32 code")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The ids and numbers of one prompt."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name in ("input_ids", "logits", "greedy"):
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def folders() -> list[str]:
    """Those with one prompt for a language model; those with several, or with other tasks, are the Rust tests' alone."""
    names = []
    for path in sorted(GOLDEN.glob("*/expected.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        if {"input_ids", "logits", "greedy"} <= header.keys():
            names.append(path.parent.name)
    return names


def golden(name: str) -> Golden:
    path = GOLDEN / name
    tensors = read_safetensors(path / "expected.safetensors")
    return Golden(path, tensors["input_ids"], tensors["logits"], tensors["greedy"])


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def shipped() -> spillway.Model:
    return spillway.shipped()


@pytest.fixture(scope="session")
def text_ids(shipped: spillway.Model) -> np.ndarray:
    """The first 2,000 bytes of the shipped text."""
    return shipped.tokenizer.encode(spillway.shipped_text()[:2000])
