#!/usr/bin/env python3
"""Builds and times candle's own models (the crate in `candle/`) on a checkpoint: Mamba, Mamba-2, RWKV-5, Llama; float32 only.

    candle_peer.py CHECKPOINT_DIR [--threads 1,2] [--cache target/peers]

candle multiplies no bf16 on a CPU. Its RWKV-6 fixes the ranks of its low-rank layers to those of the published sizes and is
left out.
"""

import json
import os
import re
import subprocess
import sys

import engine


def build(cache):
    """The program, built for this processor as candle's documentation advises."""
    target = cache / "candle"
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target), "RUSTFLAGS": "-C target-cpu=native"}
    subprocess.run(["cargo", "build", "--release", "--quiet"], check=True, cwd=engine.HERE / "candle", env=environment)
    return target / "release" / "candle-peer"


def main():
    options = engine.parse(engine.parser(__doc__, ["f32"]))
    if options.types != ["f32"]:
        sys.exit("error: candle computes in f32 only on a CPU")
    program = build(options.cache)
    lock = (engine.HERE / "candle" / "Cargo.lock").read_text()
    version = "candle " + re.search(r'name = "candle-core"\nversion = "([^"]+)"', lock)[1]
    prefill = ",".join(map(str, options.prefill))
    rows, fingerprints = [], {}
    for threads in options.threads:
        before = os.getloadavg()[0]
        command = [program, options.checkpoint, str(options.repeat), prefill, str(options.decode[0])]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        found = json.loads(done.stdout)
        fingerprints["f32"] = found["fingerprint"]
        load = [before, os.getloadavg()[0]]
        for test in found["tests"]:
            rows.append(engine.row("candle", version, "f32", threads, test["test"], test["samples"], load))
    engine.write_report(options, rows, fingerprints)


if __name__ == "__main__":
    main()
