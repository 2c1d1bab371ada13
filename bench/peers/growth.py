#!/usr/bin/env python3
"""How time and memory of the operators of state spaces grow with the length: a table, and a plot of both.

    growth.py [--threads 1] [--binary FILE] [--svg bench/docs/state-space-growth.svg] [--json FILE]
    growth.py --render FILE --svg FILE

Every operator and length of `cargo bench kernels` runs in a process of its own, whose peak of resident memory is read when it has
ended. Memory counts for each channel, beyond that of a process that runs nothing: inputs, outputs and gradients, which are
proportional to the length, and all that the operator needs beside them. Time is that of the fastest call, divided by L log₂ L.
"""

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path

import torch_kernels

OPERATORS = [("vandermonde", "kernel"), ("vandermonde", "backward"), ("cauchy", "kernel"), ("cauchy", "backward"),
             ("long_convolution", "forward"), ("long_convolution", "backward")]
SHAPE = {"vandermonde": "h256_n64_l{}k", "cauchy": "h256_n64_l{}k", "long_convolution": "s4_h256_l{}"}
THOUSANDS = [1, 4, 16, 64]
CHANNELS = 256
# Less than this a channel, peaks of two processes differ by chance: a quarter of a megabyte in all.
MEASURABLE = 1024
COLOURS = ["#1b6ca8", "#7fb4d9", "#b5443a", "#e2998f", "#3d7d3d", "#98c998"]


def run(program, arguments, options):
    """The kernels that a run reports, and the peak of resident memory in bytes."""
    path = options.cache / "growth.json"
    path.unlink(missing_ok=True)
    environment = {**os.environ, "SPILLWAY_BENCH_JSON": str(path), "RAYON_NUM_THREADS": str(options.threads)}
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    child = os.posix_spawn(program, [str(program), *arguments], environment, file_actions=silent)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"error: {program} {' '.join(arguments)} ended with {status}")
    kernels = json.loads(path.read_text())["kernels"] if path.exists() else []
    return kernels, usage.ru_maxrss * 1024


def measure(options):
    """A row for each operator, form and length."""
    program = torch_kernels.Ours(options).program.resolve()
    # Without --bench a kernel runs once, and nothing measures the machine, which would take memory of its own.
    _, empty = run(program, ["--test", "^nothing$"], options)
    rows = []
    for operator, form in OPERATORS:
        for thousands in THOUSANDS:
            length = 1024 * thousands
            shape = SHAPE[operator].format(length if operator == "long_convolution" else thousands)
            pattern = f"^kernels/{operator}/{form}/{re.escape(shape)}$"
            kernels, _ = run(program, ["--bench", "--noplot", "--discard-baseline", pattern], options)
            _, peak = run(program, ["--test", pattern], options)
            [seconds] = [kernel["seconds"] for kernel in kernels if kernel["form"] == form]
            rows.append({"operator": operator, "form": form, "length": length, "seconds": seconds,
                         "memory_bytes_per_channel": (peak - empty) / CHANNELS})
            print(rows[-1], file=sys.stderr, flush=True)
    return {"threads": options.threads, "channels": CHANNELS, "rows": rows}


def curves(report):
    """(operator, form) with its rows by length."""
    for operator, form in OPERATORS:
        yield f"{operator}, {form}", [row for row in report["rows"] if (row["operator"], row["form"]) == (operator, form)]


def per_length(row):
    """Nanoseconds for each channel, divided by L log₂ L."""
    return 1e9 * row["seconds"] / CHANNELS / (row["length"] * math.log2(row["length"]))


def table(report):
    """The Markdown lines."""
    yield "| operator | L | time | of it per channel and L log₂ L | memory per channel | and position |"
    yield "|---|---|---|---|---|---|"
    for name, rows in curves(report):
        for row in rows:
            memory = row["memory_bytes_per_channel"]
            yield (f"| {name} | {row['length']} | {1e3 * row['seconds']:.2f} ms | {per_length(row):.2f} ns "
                   + (f"| {memory / 1024:.0f} KiB | {memory / row['length']:.0f} B |" if shown(1, row) else "| below 1 KiB | – |"))


def shown(panel, row):
    """Whether a row has a point in the panel of times, or in that of memory, which a small one has not."""
    return panel == 0 or row["memory_bytes_per_channel"] >= MEASURABLE


def plot(report):
    """Both growths as SVG, by logarithmic axes: flat is L log L on the left, a slope of one is O(L) on the right."""
    panels = [("time / (L log₂ L) per channel, ns", per_length), ("memory per channel, KiB", lambda row: row["memory_bytes_per_channel"] / 1024)]
    width, height, margin = 340, 260, 56
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * (width + 2 * margin)} {height + 2 * margin + 76}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="#ffffff"/>']
    for panel, (title, value) in enumerate(panels):
        left, top = margin + panel * (width + 2 * margin), margin
        values = [value(row) for row in report["rows"] if shown(panel, row)]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

        def place(row):
            x = left + width * (math.log2(row["length"]) - 10) / 6
            return x, top + height * (1 - (math.log10(value(row)) - low) / max(1, high - low))

        lines.append(f'<text x="{left}" y="{top - 16}" font-weight="bold">{title}</text>')
        lines.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888888"/>')
        for power in range(low, high + 1):
            y = top + height * (1 - (power - low) / max(1, high - low))
            lines.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#dddddd"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
        for thousands in THOUSANDS:
            x = left + width * math.log2(thousands) / 6
            lines.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{thousands}K</text>')
        for (_, rows), colour in zip(curves(report), COLOURS):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, [row for row in rows if shown(panel, row)]))
            lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for index, ((name, _), colour) in enumerate(zip(curves(report), COLOURS)):
        x, y = margin + index % 3 * 250, height + 2 * margin + 6 + index // 3 * 22
        lines.append(f'<path d="M{x} {y - 4}h24" stroke="{colour}" stroke-width="3"/><text x="{x + 32}" y="{y}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--threads", type=int, default=1, help="default 1")
    add("--binary", type=Path, help="our bench program, if it is not to be built")
    add("--svg", type=Path, help="where the plot goes")
    add("--cache", type=Path, default=torch_kernels.ROOT / "target" / "peers", help="default target/peers")
    add("--json", type=Path, help="default CACHE/growth-report.json")
    add("--render", type=Path, help="a file written before: measure nothing")
    options = parser.parse_args()
    options.device = "cpu"
    options.cache = options.cache.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.render.read_text()) if options.render else measure(options)
    if not options.render:
        (options.json or options.cache / "growth-report.json").write_text(json.dumps(report, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(plot(report))
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
