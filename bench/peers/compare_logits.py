#!/usr/bin/env python3
"""Checks a conversion: llama.cpp's logits against the expected ones that lie beside a checkpoint.

Reads `input_ids` [batch, time] and `logits` [batch, time, vocabulary] from CHECKPOINT_DIR/expected.safetensors,
evaluates each sequence with `llama-logits` and prints the relative error ||out - expected|| / ||expected||.

    compare_logits.py CHECKPOINT_DIR MODEL.gguf LLAMA_LOGITS
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from safetensors_file import read_safetensors

# Float32 against float64 through a few layers is about 1e-6; a wrong sign, order or norm is above 1e-2.
TOLERANCE = 2e-5


def evaluate(program, model, ids):
    """Returns llama.cpp's logits for one sequence as one flat array."""
    with tempfile.TemporaryDirectory() as folder:
        ids_file, logits_file = Path(folder, "ids.i32"), Path(folder, "logits.f32")
        ids.astype("<i4").tofile(ids_file)
        subprocess.run([program, model, ids_file, logits_file], check=True, stderr=subprocess.DEVNULL)
        return np.fromfile(logits_file, "<f4")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("program", type=Path)
    arguments = parser.parse_args()
    expected = read_safetensors(arguments.checkpoint / "expected.safetensors")
    worst = 0.0
    for ids, logits in zip(expected["input_ids"], expected["logits"]):
        found = evaluate(arguments.program, arguments.model, ids)
        if found.size != logits.size:
            sys.exit(f"error: {arguments.checkpoint}: expected {logits.size} logits, found {found.size}")
        error = np.linalg.norm(found.astype(np.float64) - logits.ravel()) / np.linalg.norm(logits)
        # `not <=` rather than `>`: a NaN fails.
        if not error <= TOLERANCE:
            sys.exit(f"error: {arguments.checkpoint}: logits differ by {error:.2e}, expected at most {TOLERANCE:.0e}")
        worst = max(worst, float(error))
    print(f"{arguments.checkpoint.name}: llama.cpp's logits agree to {worst:.1e} on {len(expected['logits'])} sequences")


if __name__ == "__main__":
    main()
