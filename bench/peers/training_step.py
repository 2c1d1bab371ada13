#!/usr/bin/env python3
"""The table of training steps: `spillway train --time` and Hugging Face transformers on the same checkpoints and batches.

    training_step.py [--shapes NAME,...] [--isa avx2] [--spillway target/release/spillway] [--python PYTHON] [--json FILE]
    training_step.py --render FILE

Both train from the same random weights on the same ids: forward, backward, clipping and AdamW at f32 with two threads. Each run is
a process of its own, ours and theirs by turns; the first two steps of each process are not counted. The losses and gradient norms of
the steps must agree, or a ratio would compare two different computations. A second table has our peak memory against the length
of the sequence, whole and in truncated segments. Tables go to standard output as Markdown; everything measured goes to the file.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import engine
from sizes import MODELS

HERE = Path(__file__).resolve().parent
# Steps at the beginning of each process that are not counted: in the first moments begin, in both memory is asked for.
WARM_UP = 2
# A gradient norm is a sum over everything, in f32 and in another order.
TOLERANCE = 1e-3

# The shipped small model's sizes, in the layout that transformers reads.
SMALL = {"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "tie_word_embeddings": True,
         "state_size": 256, "num_heads": 4, "head_dim": 32, "n_groups": 1, "expand": 2, "conv_kernel": 4, "chunk_size": 256,
         "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "rms_norm": True}
CHECKPOINTS = MODELS | {"mamba2-small": {"arch": "mamba2", "layout": "hugging", "config": SMALL}}

# Checkpoint, sequences, length, counted steps of ours and of theirs in a process, processes of each.
SHAPES = {
    "small 16x64": ("mamba2-small", 16, 64, 20, 10, 2),
    "small 16x256": ("mamba2-small", 16, 256, 10, 4, 2),
    "mamba2-130m 1x512": ("mamba2-130m", 1, 512, 4, 3, 2),
    "mamba2-130m 4x512": ("mamba2-130m", 4, 512, 2, 1, 1),
    # The peer goes through these two token by token.
    "mamba-130m 1x128": ("mamba-130m", 1, 128, 5, 2, 1),
    "rwkv4-169m 1x256": ("rwkv4-169m-hf", 1, 256, 5, 2, 1),
    "llama-24x768 1x512": ("llama-24x768", 1, 512, 4, 3, 1),
}
SEGMENT = 512

CONFIG = """\
seed = 1
steps = 1000
sequences = {sequences}
length = {length}

[model]
checkpoint = "{checkpoint}"

[data]
kind = "tokens"
path = "{tokens}"
order = "documents"

[optimizer]
learning_rate = 1e-3
betas = [0.9, 0.95]
weight_decay = 0.0
clip_norm = 1.0
"""
TRUNCATED = """
[carry]
segment = {segment}
backpropagation = "truncated"
"""


def text(options):
    """Letters drawn at random, as they are and as a file of tokens, one per byte."""
    path = options.cache / "training.txt"
    letters = random.Random(1)
    path.write_text("".join(letters.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(1 << 16)))
    tokens = path.with_suffix(".tokens")
    subprocess.run([options.spillway, "tokens", path, "--out", tokens, "--force"], check=True, stdout=sys.stderr)
    return path, tokens


def ours(name, sequences, length, steps, options, more=""):
    """What `spillway train --time` measured."""
    config = options.cache / "training.toml"
    places = {"checkpoint": engine.checkpoint(name, CHECKPOINTS[name], options), "tokens": text(options)[1]}
    config.write_text(CONFIG.format(sequences=sequences, length=length, **places) + more)
    command = [options.spillway, "--threads", str(options.threads), "train", config, "--time", str(steps + WARM_UP - 1), "--json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seconds = [step["seconds"] for step in found["steps"]]
    found["seconds"] = [sum(parts.values()) for parts in seconds]
    found["parts"] = {part: statistics.median(one[part] for one in seconds[WARM_UP:]) for part in seconds[0]}
    return found


def theirs(name, sequences, length, steps, options):
    """What the peer measured."""
    command = [options.python, HERE / "training_peer.py", engine.checkpoint(name, CHECKPOINTS[name], options), "--text", text(options)[0]]
    command += ["--sequences", sequences, "--length", length, "--steps", steps + WARM_UP, "--threads", options.threads]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = json.loads(done.stdout.splitlines()[-1])
    parts = ["forward", "backward", "optimizer"]
    found["seconds"] = [sum(step[part] for part in parts) for step in found["steps"]]
    found["parts"] = {part: statistics.median(step[part] for step in found["steps"][WARM_UP:]) for part in parts}
    return found


def disagreement(mine, other):
    """The largest relative difference of losses and gradient norms over the steps that both have."""
    pairs = zip(mine["steps"], other["steps"])
    return max(abs(a[what] / b[what] - 1.0) for a, b in pairs for what in ["loss", "gradient_norm"])


def measure(shape, options):
    """One row of the first table."""
    name, sequences, length, my_steps, their_steps, rounds = SHAPES[shape]
    rounds = options.rounds or rounds
    engines = {"spillway": (ours, my_steps), "transformers": (theirs, their_steps)}
    runs = {engine: [] for engine in engines}
    for index in range(rounds):
        for engine_name, (run, steps) in engines.items():
            before = os.getloadavg()[0]
            found = run(name, sequences, length, steps, options)
            found["load_average"] = [before, os.getloadavg()[0]]
            runs[engine_name].append(found)
            print(f"[training] {shape}, {engine_name}, {index + 1} of {rounds}: {found['seconds']}", file=sys.stderr)
    off = disagreement(runs["spillway"][0], runs["transformers"][0])
    entry = {"shape": shape, "tokens": sequences * length, "disagreement": off, "runs": runs}
    entry["parameters"] = runs["spillway"][0]["parameters"]
    return entry


def lengths(options):
    """Our memory against the length of a sequence."""
    truncated = TRUNCATED.format(segment=SEGMENT)
    rows = []
    for length in options.lengths:
        for segments, more in [("whole", ""), (f"segments of {SEGMENT}", truncated)]:
            found = ours("mamba2-130m", 1, length, 1, options, more)
            rows.append({"length": length, "segments": segments, "run": found})
    return rows


def gigabytes(size):
    return f"{size / 1e9:.2f} GB"


def speeds(entry, engine_name):
    """Median, slowest and fastest tokens per second of the counted steps of all runs."""
    samples = [entry["tokens"] / seconds for run in entry["runs"][engine_name] for seconds in run["seconds"][WARM_UP:]]
    return statistics.median(samples), min(samples), max(samples)


def tables(report):
    """The Markdown lines."""
    headings = ["model, sequences x tokens", "spillway, tokens/s", "transformers, tokens/s", "ratio", "spillway, peak"]
    headings += ["transformers, peak", "losses and norms agree to"]
    yield f"| {' | '.join(headings)} |"
    yield "|---|---|---|---|---|---|---|"
    for entry in report["shapes"]:
        shown, medians, peaks = [], [], []
        for name in ["spillway", "transformers"]:
            median, slowest, fastest = speeds(entry, name)
            medians.append(median)
            shown.append(f"{median:.0f} ({slowest:.0f} to {fastest:.0f})")
            peaks.append(gigabytes(max(run["peak_memory_bytes"] for run in entry["runs"][name])))
        same = f"{entry['disagreement']:.0e}" if entry["disagreement"] <= TOLERANCE else f"**{entry['disagreement']:.0e}**"
        ratio = f"{medians[0] / medians[1]:.1f}×"
        yield f"| {entry['shape']} | {shown[0]} | {shown[1]} | {ratio} | {peaks[0]} | {peaks[1]} | {same} |"
    yield ""
    yield "| model, sequences x tokens | engine | forward | backward | optimiser |"
    yield "|---|---|---|---|---|"
    for entry in report["shapes"]:
        for name, runs in entry["runs"].items():
            parts = [statistics.median(run["parts"][part] for run in runs) for part in ["forward", "backward", "optimizer"]]
            yield f"| {entry['shape']} | {name} | " + " | ".join(f"{1e3 * seconds:.1f} ms" for seconds in parts) + " |"
    if not report["lengths"]:
        return
    yield ""
    yield "| tokens of one sequence (mamba2-130m) | back-propagation | peak | above that before the first step | tokens/s |"
    yield "|---|---|---|---|---|"
    for row in report["lengths"]:
        run = row["run"]
        peak, above = run["peak_memory_bytes"], run["peak_memory_bytes"] - run["memory_before_bytes"]
        speed = row["length"] / statistics.median(run["seconds"][WARM_UP:])
        yield f"| {row['length']} | {row['segments']} | {gigabytes(peak)} | {gigabytes(above)} | {speed:.0f} |"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: text.split(",")
    counts = lambda text: [int(count) for count in text.split(",") if count]
    add = parser.add_argument
    add("--shapes", type=names, default=list(SHAPES), help=f"of {', '.join(SHAPES)}")
    add("--lengths", type=counts, default=[512, 1024, 2048, 4096], help="for the memory; default 512,1024,2048,4096")
    add("--threads", type=int, default=2, help="default 2")
    add("--isa", choices=list(engine.LEVELS), help="hold both to this level of vector instructions (default: the machine's best)")
    add("--rounds", type=int, help="processes of each engine per shape (default 1 or 2)")
    add("--spillway", type=Path, default=HERE.parents[1] / "target" / "release" / "spillway")
    add("--python", default=sys.executable, help="a Python with torch, transformers and safetensors")
    add("--cache", type=Path, default=engine.CACHE, help="default target/peers")
    add("--keep", action="store_true", help="keep the random checkpoints")
    add("--json", type=Path, help="default CACHE/training.json")
    add("--render", type=Path, help="print the tables of a file written before, measure nothing")
    options = parser.parse_args()
    engine.hold(options.isa)
    unknown = [shape for shape in options.shapes if shape and shape not in SHAPES]
    if unknown:
        parser.error(f"--shapes: {unknown[0]!r} is not one of {', '.join(SHAPES)}")
    options.cache = options.cache.resolve()
    return options


def main():
    options = arguments()
    if options.render:
        print("\n".join(tables(json.loads(options.render.read_text()))))
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.json or options.cache / "training.json"
    report = {"processor": engine.processor(), "date": str(datetime.date.today()), "threads": options.threads}
    report |= {"shapes": [], "lengths": []}
    used = []

    def save():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=1) + "\n")
        partial.rename(path)

    for shape in filter(None, options.shapes):
        report["shapes"].append(measure(shape, options))
        used.append(SHAPES[shape][0])
        save()
    report["lengths"] = lengths(options)
    save()
    if not options.keep:
        for name in {*used, "mamba2-130m"}:
            shutil.rmtree(options.cache / "checkpoints" / name, ignore_errors=True)
    print("\n".join(tables(report)))


if __name__ == "__main__":
    main()
