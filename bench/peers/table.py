#!/usr/bin/env python3
"""The speed table: `spillway bench` and every peer that loads the same checkpoint, one model after another.

    table.py [--models mamba2-130m,rwkv7-0.1b] [--isa avx2] [--spillway target/release/spillway] [--cache target/peers]
    table.py --render FILE [--render FILE ...]

Each model: random weights by `spillway init`, then our program, the peers, our program again (all our samples count), at f32,
bf16 and int8 (llama.cpp's q8_0) with one and two threads. Engines must agree on the logits after one prompt, or they are left
out of the comparison. The table goes to standard output as Markdown; everything measured goes to the file, model by model.
--isa holds every engine to a level of vector instructions, as if the processor had no more.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import engine
from sizes import MODELS

# What may differ between engines that compute the same function: sums in another order at f32; at bf16 torch rounds what goes
# into every product too; at int8 every engine rounds in its own way.
TOLERANCES = {"f32": 1e-3, "bf16": 1e-1, "int8": 1e-1}
SCRIPTS = {"llama.cpp": "llama_cpp.py", "transformers": "hugging_face.py", "rwkv": "rwkv_package.py", "candle": "candle_peer.py"}
TYPES = ["f32", "bf16", "int8"]
# What peers call our types; a peer without a name for one does not have it.
NAMES = {
    "llama.cpp": {"f32": "f32", "bf16": "bf16", "int8": "q8_0"},
    "transformers": {"f32": "f32", "bf16": "bf16"},
    "rwkv": {"f32": "f32", "bf16": "bf16"},
    "candle": {"f32": "f32"},
}


def ours(folder, options):
    """Our rows and fingerprints, as the peers' scripts give them."""
    command = [options.spillway, "--threads", ",".join(map(str, options.threads)), "bench", folder, "--json"]
    command += ["--dtype", ",".join(options.types), "--prefill", ",".join(map(str, options.prefill))]
    command += ["--repeats", str(options.repeat)]
    measured = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    rows, fingerprints = [], {}
    report = json.loads(measured)
    for part in report["configurations"]:
        measured = part["measured"]
        fingerprints[part["dtype"]] = measured["fingerprint"]
        timed = [("prefill", one) for one in measured["prefill"]] + [("decode", measured["decode"])]
        for (test, one), speed in zip(timed, part["speeds"]):
            samples = [one["tokens"] / seconds for seconds in one["seconds"]]
            limit = speed["tokens_per_second"] / speed["fraction_of_limit"]
            row = {"engine": "spillway", "version": report["instructions"], "type": part["dtype"], "threads": part["threads"]}
            row |= {"samples": samples, "limit": limit}
            rows.append(row | {"test": f"{test} {one['tokens']}", "load_average": os.getloadavg()[0]})
    return rows, fingerprints


def peer(name, folder, options):
    """A peer's rows and fingerprints; the reason where it does not run."""
    path = options.cache / f"{name}.json"
    path.unlink(missing_ok=True)
    types = [NAMES[name][one] for one in options.types if one in NAMES[name]]
    ours = {theirs: our for our, theirs in NAMES[name].items()}
    command = [options.python if name in ("transformers", "rwkv") else sys.executable, engine.HERE / SCRIPTS[name], folder]
    command += ["--types", ",".join(types), "--threads", ",".join(map(str, options.threads)), "--cache", options.cache]
    command += ["--prefill", ",".join(map(str, options.prefill)), "--repeat", str(options.repeat), "--json", path]
    command += ["--isa", options.isa] if options.isa else []
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stderr.write("".join(f"{line}\n" for line in done.stdout.splitlines() if line.startswith(name)))
    if done.returncode != 0 or not path.exists():
        reason = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(f"[peers] {name}: {reason}", file=sys.stderr)
        return [], {}, reason
    report = json.loads(path.read_text())
    rows = [row | {"type": ours[row["type"]]} for row in report["rows"]]
    return rows, {ours[theirs]: found for theirs, found in report["fingerprints"].items()}, None


def distance(found, expected):
    """Relative distance of two fingerprints; NaN where one is."""
    difference = math.sqrt(sum((f - e) ** 2 for f, e in zip(found, expected)))
    return difference / math.sqrt(sum(e * e for e in expected))


def measure(name, options):
    """Everything about one model."""
    folder = engine.checkpoint(name, MODELS[name], options)
    rows, expected = ours(folder, options)
    disagreement, failed = {}, {}
    for other in MODELS[name]["peers"]:
        if other not in options.peers or (options.isa and other == "candle"):
            continue
        new, fingerprints, reason = peer(other, folder, options)
        if reason:
            failed[other] = reason
        for weight_type, found in fingerprints.items():
            disagreement[f"{other} {weight_type}"] = distance(found, expected[weight_type])
        rows += new
    if MODELS[name]["peers"]:
        rows += ours(folder, options)[0]
    if not options.keep:
        shutil.rmtree(folder)
    found = {"model": name, "instructions": options.isa or "all", "rows": rows, "disagreement": disagreement, "failed": failed}
    return found | {"date": str(datetime.date.today())}


def cells(entry):
    """{(type, threads, test): {engine: median}} and our limits, of engines that compute the same function."""
    samples, limits = {}, {}
    for row in entry["rows"]:
        agreement = entry["disagreement"].get(f"{row['engine']} {row['type']}", 0.0)
        if not agreement <= TOLERANCES.get(row["type"], 0.0):
            continue
        key = (row["type"], row["threads"], row["test"])
        samples.setdefault(key, {}).setdefault(row["engine"], []).extend(row["samples"])
        if "limit" in row:
            limits[key] = max(limits.get(key, 0.0), row["limit"])
    return {key: {name: statistics.median(all) for name, all in engines.items()} for key, engines in samples.items()}, limits


def table(entries):
    """The Markdown lines."""
    names = list(SCRIPTS)
    titles = ["model", "instructions", "weights", "threads", "tokens/s of", "spillway", "of the limit", *names, "to the best"]
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for entry in entries:
        found, limits = cells(entry)
        instructions = entry.get("instructions", "all")
        for (weight_type, threads, test), speeds in found.items():
            mine = speeds.get("spillway")
            if mine is None:
                continue
            best = max((speed for name, speed in speeds.items() if name != "spillway"), default=None)
            shown = [f"{speeds[name]:.0f}" if name in speeds else "–" for name in names]
            ratio = f"{mine / best:.2f}×" if best else "–"
            limit = f"{mine / limits[weight_type, threads, test]:.0%}"
            row = [entry["model"], instructions, weight_type, str(threads), test, f"{mine:.0f}", limit, *shown, ratio]
            yield f"| {' | '.join(row)} |"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: text.split(",")
    counts = lambda text: [int(count) for count in text.split(",")]
    add = parser.add_argument
    add("--models", type=names, default=list(MODELS), help=f"of {', '.join(MODELS)}")
    add("--peers", type=names, default=list(SCRIPTS), help=f"of {', '.join(SCRIPTS)}")
    add("--isa", choices=list(engine.LEVELS), help="hold every engine to this level (default: the machine's best)")
    add("--types", type=names, default=TYPES, help=f"default {','.join(TYPES)}")
    add("--threads", type=counts, default=[1, 2], help="default 1,2")
    add("--prefill", type=counts, default=[512, 2048], help="default 512,2048")
    add("--repeat", type=int, default=3, help="samples per test and run (default 3)")
    add("--spillway", type=Path, default=engine.HERE.parents[1] / "target" / "release" / "spillway")
    add("--python", default=sys.executable, help="a Python with torch, transformers, safetensors and rwkv")
    add("--cache", type=Path, default=engine.CACHE, help="default target/peers")
    add("--keep", action="store_true", help="keep the random checkpoints")
    add("--json", type=Path, help="default CACHE/table.json")
    add("--render", type=Path, action="append", help="print the table of files written before, measure nothing")
    options = parser.parse_args()
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        parser.error(f"--models: {unknown[0]!r} is not one of {', '.join(MODELS)}")
    unknown = [name for name in options.types if name not in TYPES]
    if unknown:
        parser.error(f"--types: {unknown[0]!r} is not one of {', '.join(TYPES)}")
    engine.hold(options.isa)
    options.cache = options.cache.resolve()
    return options


def main():
    options = arguments()
    if options.render:
        entries = [entry for path in options.render for entry in json.loads(path.read_text())["models"]]
        print("\n".join(table(entries)))
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.json or options.cache / "table.json"
    entries = []
    for name in options.models:
        print(f"[peers] {name}", file=sys.stderr, flush=True)
        entries.append(measure(name, options))
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"processor": engine.processor(), "models": entries}, indent=1) + "\n")
        partial.rename(path)
    print("\n".join(table(entries)))


if __name__ == "__main__":
    main()
