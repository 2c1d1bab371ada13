"""What the scripts that time an engine on a checkpoint share: arguments, ids, timing, report.

An engine in Python is a class with `version`, `types` (weight types it computes in), `prefill(ids)` and `decode(ids)`: from
an empty state, the first gives the logits after the last id, the second after each id one by one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "target" / "peers"
# The prompt whose last logits are compared between engines, and how many of these are kept: `bench/src/speed/child.rs` has
# the same numbers.
FINGERPRINT_IDS, FINGERPRINT_LOGITS = 32, 64
# What holds each engine to a level of vector instructions: the environment of ours and torch's, the options of llama.cpp's build.
# One that cannot be held (candle) is left out at a level.
LEVELS = {
    "avx2": {
        "environment": {
            "SPILLWAY_ISA": "avx2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
        "llama.cpp": ["NATIVE=OFF", "AVX=ON", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON", "AVX512=OFF", "AVX_VNNI=OFF"],
    },
}


def fingerprint_ids(vocabulary):
    return [(7919 * index + 13) % vocabulary for index in range(FINGERPRINT_IDS)]


def random_ids(vocabulary, count):
    """Spread over the vocabulary, so that every token's row is somewhere else in the embedding."""
    return [(48271 * index + 11) % vocabulary for index in range(1, count + 1)]


def parser(description, types):
    """The arguments that every engine takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: text.split(",")
    counts = lambda text: [int(count) for count in text.split(",")]
    add = found.add_argument
    add("checkpoint", type=Path, help="folder with config.json and model.safetensors, as `spillway init` writes it")
    add("--types", type=names, default=types, help=f"weight types (default {','.join(types)})")
    add("--threads", type=counts, default=[1, 2], help="thread counts (default 1,2)")
    add("--prefill", type=counts, default=[512, 2048], help="prompt lengths (default 512,2048)")
    add("--decode", type=counts, default=[64], help="numbers of generated tokens (default 64)")
    add("--repeat", type=int, default=3, help="samples per test, after a warm-up (default 3)")
    add("--cache", type=Path, default=CACHE, help="where fetched and converted things stay (default target/peers)")
    add("--json", type=Path, help="default CACHE/peers.json")
    add("--isa", choices=list(LEVELS), help="hold the engine to this level of vector instructions (default: the machine's best)")
    add("--golden", type=Path, action="append", default=[], help="first hold the engine to a checkpoint's expected logits")
    return found


def hold(level):
    """Holds what this process computes or starts to a level of vector instructions, by starting it again: libraries look once."""
    wanted = os.environ | (LEVELS[level]["environment"] if level else {})
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)


def parse(found):
    """The parsed arguments, with absolute paths."""
    options = found.parse_args()
    hold(options.isa)
    for folder in [options.checkpoint, *options.golden]:
        if not (folder / "config.json").exists():
            found.error(f"{folder} holds no config.json; make a checkpoint with `spillway init`")
    options.cache, options.checkpoint = options.cache.resolve(), options.checkpoint.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    return options


def processor():
    """Returns the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def row(engine, version, weight_type, threads, test, samples, load):
    """One entry of the report; the speed is the median of the samples, which are tokens per second."""
    entry = {"engine": engine, "version": version, "type": weight_type, "threads": threads, "test": test}
    entry |= {"tokens_per_second": statistics.median(samples), "spread": {"min": min(samples), "max": max(samples)}}
    entry |= {"samples": samples, "load_average": load}
    spread = f"{min(samples):8.1f} .. {max(samples):8.1f}"
    print(f"{engine:13} {weight_type:5} {threads:2} {test:13} {entry['tokens_per_second']:9.1f}   {spread}", flush=True)
    return entry


def sample(work, tokens, repeat):
    """Tokens per second of each repetition, after one that is not counted."""
    work()
    samples = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        samples.append(tokens / (time.perf_counter() - begin))
    return samples


def time_engine(name, load, options, set_threads, vocabulary):
    """Times `load(weight_type)` at every type and thread count; returns rows and a fingerprint per type."""
    rows, fingerprints = [], {}
    for weight_type in options.types:
        engine = load(weight_type)
        tests = [("prefill", count, engine.prefill) for count in options.prefill]
        tests += [("decode", count, engine.decode) for count in options.decode]
        fingerprints[weight_type] = engine.prefill(fingerprint_ids(vocabulary))[:FINGERPRINT_LOGITS]
        for threads in options.threads:
            set_threads(threads)
            for test, count, work in tests:
                before, ids = os.getloadavg()[0], random_ids(vocabulary, count)
                samples = sample(lambda: work(ids), count, options.repeat)
                load_average = [before, os.getloadavg()[0]]
                rows.append(row(name, engine.version, weight_type, threads, f"{test} {count}", samples, load_average))
    return rows, fingerprints


def write_report(options, rows, fingerprints):
    """Writes the report under a temporary name first."""
    path = options.json or options.cache / "peers.json"
    report = {"processor": processor(), "instructions": options.isa or "all", "checkpoint": options.checkpoint.name}
    report |= {"fingerprints": fingerprints, "rows": rows}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.rename(path)
    print(f"written to {path}")


def checkpoint(name, model, options):
    """The folder `name` in the cache with random weights of a model as `sizes.py` describes it, made when it is not there."""
    folder = options.cache / "checkpoints" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [options.spillway, "init", "--arch", model["arch"], "--layout", model["layout"], "--out", folder]
        if "size" in model:
            command += ["--shape", model["size"]]
        else:
            config = folder.with_suffix(".config.json")
            config.write_text(json.dumps(model["config"]))
            command += ["--config", config]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder
