#!/usr/bin/env python3
"""Training steps of S4D on digits, ours and torch's: `spillway train --time` beside the same network in plain torch.

    state_space_step.py [--lengths 64,1024,4096,16384] [--threads 2] [--rounds 3] [--spillway FILE] [--python PYTHON] [--json FILE]
    state_space_step.py --render FILE

Two layers of width 64, a state of 32 numbers in 16 conjugate pairs, 32 images of 64 pixels a step; for the longer sequences the
digits with a gap, and one sequence for every 4,096 steps less at least one. The network is the one that `spillway train` makes of an
`s4` configuration: a linear encoder, twice norm, state space, GELU, a gated projection and the residual, then the mean and a linear
decoder. Torch's state space is a kernel by the whole array of powers and a convolution by FFT, eager and by torch.compile; the
faster counts. A step is forward, backward, clipping and AdamW at f32. Each run is a process of its own, ours and theirs by turns;
the first steps of each are not counted. Weights and batches are random and not the same, so that only times compare.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import engine

WIDTH, LAYERS, PAIRS, CLASSES, PIXELS = 64, 2, 16, 10, 64
# Steps at the beginning that are not counted.
WARM_UP = 3

CONFIG = """\
seed = 1
steps = 10000
sequences = {sequences}
length = {length}

[task]
data = {data}

[model]
arch = "s4"

[model.config]
model_type = "s4"
d_model = 64
n_layers = 2
vocab_size = 16
layer = {{ mode = "diag", init = "diag-lin", d_state = 32 }}

[optimizer]
learning_rate = 4e-3
betas = [0.9, 0.999]
weight_decay = 0.01
clip_norm = 1.0
"""


def sequences(length):
    """32 short sequences, and fewer of longer ones."""
    return max(1, min(32, 32 * 4096 // (16 * length)))


def ours(length, steps, options):
    """What `spillway train --time` measured: seconds of each counted step."""
    data = '{ kind = "digits" }' if length == PIXELS else f'{{ kind = "digits-with-gap", gap = {length - PIXELS} }}'
    config = options.cache / "state-space.toml"
    config.write_text(CONFIG.format(sequences=sequences(length), length=length, data=data))
    command = [options.spillway, "--threads", str(options.threads), "train", config, "--time", str(steps + WARM_UP - 1), "--json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    counted = [step["seconds"] for step in found["steps"]][WARM_UP:]
    return {
        "seconds": [sum(step.values()) - step["data"] for step in counted],
        "parts": {part: statistics.median(step[part] for step in counted) for part in counted[0]},
        "parameters": found["parameters"],
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def theirs(form):
    def run(length, steps, options):
        command = [options.python, __file__, "--peer", form, "--lengths", length, "--steps", steps, "--threads", options.threads]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return json.loads(done.stdout.splitlines()[-1])
    return run


def network(torch):
    """The network in plain torch."""
    from torch import nn

    class StateSpace(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_step = nn.Parameter(torch.rand(WIDTH) * math.log(100.0) + math.log(1e-3))
            self.log_rate = nn.Parameter(torch.full((WIDTH, PAIRS), math.log(0.5)))
            self.frequency = nn.Parameter(math.pi * torch.arange(PAIRS, dtype=torch.float32).repeat(WIDTH, 1))
            self.b = nn.Parameter(torch.ones(WIDTH, PAIRS, 2))
            self.c = nn.Parameter(torch.randn(WIDTH, PAIRS, 2) * math.sqrt(0.5))
            self.skip = nn.Parameter(torch.randn(WIDTH))
            self.projection = nn.Linear(WIDTH, 2 * WIDTH)

        def forward(self, u):
            length = u.shape[1]
            a = torch.complex(-self.log_rate.exp(), self.frequency)
            rate = a * self.log_step.exp()[:, None]
            weights = torch.view_as_complex(self.c) * torch.view_as_complex(self.b) * (rate.exp() - 1.0) / a
            powers = (rate[..., None] * torch.arange(length)).exp()
            kernel = 2.0 * torch.einsum("hn,hnl->hl", weights, powers).real
            u = u.transpose(1, 2)
            spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
            y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + u * self.skip[:, None]
            return nn.functional.glu(self.projection(nn.functional.gelu(y.transpose(1, 2))), dim=-1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(1, WIDTH), nn.Linear(WIDTH, CLASSES)
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS + 1))
            self.layers = nn.ModuleList(StateSpace() for _ in range(LAYERS))

        def forward(self, x):
            x = self.encoder(x)
            for norm, layer in zip(self.norms, self.layers):
                x = x + layer(norm(x))
            return self.decoder(self.norms[-1](x).mean(1))

    return Network()


def peer(options):
    """Seconds of torch's steps, as one line of JSON."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    [length], model = options.lengths, network(torch)
    run = torch.compile(model, dynamic=False) if options.peer == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01, fused=True)
    x, targets = torch.randn(sequences(length), length, 1), torch.randint(CLASSES, (sequences(length),))
    seconds = []
    for _ in range(WARM_UP + options.steps):
        begin = time.perf_counter()
        torch.nn.functional.cross_entropy(run(x), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"seconds": seconds[WARM_UP:], "parameters": parameters}))


def measure(length, options):
    """One row: both engines by turns."""
    steps = max(3, min(options.steps, options.steps * PIXELS * 32 // (sequences(length) * length)))
    engines = {"spillway": ours, "torch": theirs("eager"), "torch.compile": theirs("compiled")}
    runs = {name: [] for name in engines}
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for name, run in engines.items():
            runs[name].append(run(length, steps, options))
            print(f"[state space step] {length}, {name}: {statistics.median(runs[name][-1]['seconds']):.5f} s", file=sys.stderr)
    return {"length": length, "sequences": sequences(length), "load_average": load, "runs": runs}


def table(report):
    """The Markdown lines."""
    yield "| sequences x steps | spillway | of it forward, backward, optimiser | torch | torch.compile | ratio to the faster |"
    yield "|---|---|---|---|---|---|"
    for row in report["rows"]:
        median = {name: statistics.median(s for run in runs for s in run["seconds"]) for name, runs in row["runs"].items()}
        fastest = min(seconds for name, seconds in median.items() if name != "spillway")
        parts = [statistics.median(run["parts"][part] for run in row["runs"]["spillway"]) for part in ("forward", "backward", "optimizer")]
        shown = ", ".join(f"{1e3 * part:.2f}" for part in parts)
        yield (f"| {row['sequences']} x {row['length']} | {1e3 * median['spillway']:.2f} ms | {shown} ms | {1e3 * median['torch']:.2f} ms "
               f"| {1e3 * median['torch.compile']:.2f} ms | {fastest / median['spillway']:.1f}× |")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lengths", type=lambda text: [int(length) for length in text.split(",")], default=[PIXELS, 1024, 4096, 16384])
    add("--threads", type=int, default=2, help="default 2")
    add("--steps", type=int, default=100, help="counted steps of a run of the shortest length (default 100)")
    add("--rounds", type=int, default=3, help="processes of each engine (default 3)")
    add("--spillway", type=Path, default=Path(__file__).resolve().parents[2] / "target" / "release" / "spillway")
    add("--python", default=sys.executable, help="a Python with torch")
    add("--cache", type=Path, default=engine.CACHE, help="default target/peers")
    add("--json", type=Path, help="default CACHE/state-space-step.json")
    add("--render", type=Path, help="print the table of a file written before, measure nothing")
    add("--peer", choices=["eager", "compiled"], help="be the peer: this program calls itself so")
    return parser.parse_args()


def main():
    options = arguments()
    if options.peer:
        return peer(options)
    if options.render:
        print("\n".join(table(json.loads(options.render.read_text()))))
        return None
    options.cache = options.cache.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    report = {"processor": engine.processor(), "threads": options.threads, "rows": []}
    path = options.json or options.cache / "state-space-step.json"
    for length in options.lengths:
        report["rows"].append(measure(length, options))
        path.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(table(report)))
    return None


if __name__ == "__main__":
    main()
