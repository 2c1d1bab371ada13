#!/usr/bin/env python3
"""Times what torch and JAX users have for each operator and our kernels, in one run, at the same sizes and threads.

    torch_kernels.py [--threads 1] [--filter mamba2] [--device cpu|cuda] [--jax PYTHON] [--json FILE]
    torch_kernels.py --threads 1,2 --jax PYTHON --filter 'vandermonde|cauchy|long_convolution/s4'     # state spaces
    torch_kernels.py --render FILE

For each shape that `cargo bench kernels` has: our kernels, then every torch form (see torch_forms.py), JAX's of state spaces
(jax_forms.py) where a Python that has jax is named, then ours again; the
fastest of each counts. Forward is without gradients; forward+backward gives gradients for every input. torch and the
packages that the forms come from are installed into the cache folder at the first run; nothing of theirs is kept here.
A form whose arrays do not fit the memory that is free is left out, and the report says so.
Figures mean something on a quiet machine only; `--clock cpu` counts processor time instead, on one thread.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import engine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ["torch==2.15.0", "numpy", "einops", "packaging", "transformers", "pykeops"]
# Without what they name as needed: their CUDA extensions are not, on a CPU.
BARE_PACKAGES = ["fla-core==0.6.0", "flash-linear-attention==0.6.0"]
MAMBA = "mamba-ssm==2.3.2.post1"
FORWARD = ("sequential", "chunked", "kernel", "forward")
KINDS = ("chunked", "fused", "token by token", "attention", "plain", "compiled")
# Kinds whose backward pass is timed, and kinds of which the fastest is the one to beat.
WITH_BACKWARD = ("chunked", "fused", "plain", "compiled")
# Of the free memory, what a form may need; and how much more its backward pass keeps than its forward pass holds.
SHARE, KEPT = 0.8, 1.5


def in_environment(options):
    """Goes on inside a virtual environment that has torch, which is made when it is not there."""
    if options.python:
        python = Path(options.python)
    else:
        python = options.cache / "torch" / "bin" / "python"
        ready = options.cache / "torch.ready"
        if not ready.exists():
            print("[peers] installing torch and its packages ...", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", options.cache / "torch"], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES], check=True)
            subprocess.run([*pip, "--no-deps", *BARE_PACKAGES], check=True)
            # Its CUDA extensions are built where a compiler for them is.
            skip = {} if options.device == "cuda" else {"MAMBA_SKIP_CUDA_BUILD": "TRUE", "MAMBA_FORCE_BUILD": "TRUE"}
            mamba = [*pip, "--no-deps", "--no-build-isolation", MAMBA]
            if subprocess.run(mamba, env={**os.environ, **skip}).returncode != 0:
                print("[peers] mamba_ssm cannot be installed here; its forms are left out", file=sys.stderr)
            ready.touch()
    if Path(sys.executable) != python:
        arguments = [str(python), __file__, *sys.argv[1:], "--python", str(python)]
        os.execv(python, arguments)


class Ours:
    """`cargo bench kernels`, built once."""

    def __init__(self, options):
        self.options = options
        features = ["--features", "cuda"] if options.device == "cuda" else []
        build = ["cargo", "bench", "-p", "spillway", "--bench", "kernels", "--no-run", *features]
        if options.binary:
            self.program = options.binary
        else:
            text = subprocess.run([*build, "--message-format=json"], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
            artifacts = (json.loads(line) for line in text.stdout.splitlines() if line.startswith("{"))
            programs = [a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "kernels"]
            self.program = Path(programs[-1])
        self.device = {"SPILLWAY_BENCH_DEVICE": options.device} if options.device == "cuda" else {}

    def shapes(self):
        """(operator, shape) of everything that has a torch form."""
        command = [self.program, "--bench", "--list", "--format", "terse"]
        names = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | self.device)
        found = re.findall(r"^kernels/(\w+)/(\w+)/([^:\s]+)", names.stdout, re.MULTILINE)
        forms = (*FORWARD, "backward")
        return list(dict.fromkeys((operator, shape) for operator, form, shape in found if form in forms))

    def time(self, operator, shape, threads):
        """The report of one run over a shape's forms."""
        path = self.options.cache / "ours.json"
        path.unlink(missing_ok=True)
        pattern = f"^kernels/{operator}/({'|'.join(FORWARD)}|backward)/{re.escape(shape)}$"
        environment = {
            **os.environ,
            **self.device,
            "SPILLWAY_BENCH_JSON": str(path),
            "SPILLWAY_BENCH_CLOCK": self.options.clock,
            "RAYON_NUM_THREADS": str(threads),
        }
        command = [self.program, "--bench", "--noplot", "--discard-baseline", pattern]
        log = self.options.cache / "ours.log"
        with log.open("a") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.options.cache)
        if done.returncode != 0 or not path.exists():
            sys.exit(f"error: {self.program} failed, see {log}")
        return json.loads(path.read_text())


class Reported:
    """Our kernels as a run of `cargo bench kernels` reported them."""

    def __init__(self, path):
        self.report = json.loads(path.read_text())

    def shapes(self):
        """(operator, shape) of everything that has a torch form."""
        forms = (*FORWARD, "backward")
        return list(dict.fromkeys((k["operator"], k["shape"]) for k in self.report["kernels"] if k["form"] in forms))

    def time(self, operator, shape, threads):
        """The report of one shape's forms."""
        forms, this = (*FORWARD, "backward"), (operator, shape)
        kernels = [k for k in self.report["kernels"] if (k["operator"], k["shape"]) == this and k["form"] in forms]
        return {**self.report, "kernels": kernels}


class Torch:
    """The forms of torch_forms.py."""

    def __init__(self, options):
        import torch
        import torch_forms
        self.torch, self.all_forms, self.options = torch, torch_forms, options

    def now(self):
        if self.options.device == "cuda":
            self.torch.cuda.synchronize()
        return time.process_time() if self.options.clock == "cpu" else time.perf_counter()

    def fastest(self, call):
        """Seconds of the fastest call out of at least `repeat`, and out of a second's worth; once where a call is slow."""
        begin = self.now()
        call()
        best = first = self.now() - begin
        calls = 1 if first > 5 else max(self.options.repeat, min(50, int(1 / max(first, 1e-4))))
        for _ in range(calls - 1 if first > 5 else calls):
            begin = self.now()
            call()
            best = min(best, self.now() - begin)
        return best

    def rows(self, operator, sizes, threads):
        """Seconds forward and forward+backward of each form; an error's text where a form does not run."""
        torch = self.torch
        torch.set_num_threads(threads)
        for form in self.all_forms.forms(operator, sizes, self.options.device):
            row = {"name": form.name, "kind": form.kind}
            try:
                expect_room(form.bytes)
                inputs = form.inputs()
                with torch.no_grad():
                    if form.kind == "compiled":
                        form.run(*inputs)
                    row["forward"] = self.fastest(lambda: form.run(*inputs))
                    cotangent = torch.ones_like(form.run(*inputs))
                if form.kind in WITH_BACKWARD or self.options.slow:
                    expect_room(KEPT * form.bytes)
                    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
                    def both():
                        return torch.autograd.grad(form.run(*inputs), inputs, cotangent)
                    if form.kind == "compiled":
                        both()
                    row["forward+backward"] = self.fastest(both)
            except (RuntimeError, ImportError, ValueError, AssertionError, MemoryError) as error:
                row["error"] = str(error).splitlines()[0][:200]
            yield row


def expect_room(size):
    """Raises a MemoryError where so many bytes are not free."""
    free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable")) * 1024
    if size > SHARE * free:
        raise MemoryError(f"its arrays take {size / 1e9:.0f} GB, of which {free / 1e9:.0f} GB are free")


def jax_rows(operator, sizes, threads, options):
    """The rows of jax_forms.py, from a process of its own that is held to the same cores."""
    command = [options.jax, HERE / "jax_forms.py", operator, json.dumps(sizes), "--threads", threads, "--repeat", options.repeat]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return [{"name": "jax", "kind": "compiled", "error": f"ended with {done.returncode}"}]
    return json.loads(done.stdout)


def summary(reports):
    """Our fastest forward and backward over several runs, in seconds, and what the fastest forward's ceiling was."""
    kernels = [kernel for report in reports for kernel in report["kernels"] if "seconds" in kernel]
    forward = [kernel for kernel in kernels if kernel["form"] in FORWARD]
    backward = [kernel["seconds"] for kernel in kernels if kernel["form"] == "backward"]
    fastest = min(forward, key=lambda kernel: kernel["seconds"], default=None)
    ours = {}
    if fastest:
        ours["forward"] = fastest["seconds"]
        ours["form"] = fastest["form"]
        ours["ceiling"], ours["fraction_of_ceiling"] = fastest["ceiling"], fastest["fraction_of_ceiling"]
        if backward:
            ours["forward+backward"] = fastest["seconds"] + min(backward)
    return ours, (kernels[0]["sizes"] if kernels else None)


def ratios(ours, peers):
    """For each pass and kind: the fastest peer, its seconds, and how many times ours that is."""
    found = []
    for passes in ("forward", "forward+backward"):
        for kind in KINDS:
            timed = [peer for peer in peers if peer["kind"] == kind and passes in peer]
            if timed and passes in ours:
                best = min(timed, key=lambda peer: peer[passes])
                ratio = best[passes] / ours[passes]
                found.append({"pass": passes, "kind": kind, "peer": best["name"], "seconds": best[passes], "ratio": ratio})
    return found


def print_shape(entry):
    for ratio in entry["ratios"]:
        ours = entry["ours"][ratio["pass"]] * 1e3
        ceiling = f"{entry['ours']['fraction_of_ceiling']:4.0%} {entry['ours']['ceiling']}" if ratio["pass"] == "forward" else ""
        name = f"{entry['operator']}/{entry['shape']}"
        print(f"{name:42} {entry['threads']:2} {ratio['pass']:17} {ours:10.3f} {ceiling:20} "
              f"{ratio['peer']:38} {ratio['seconds'] * 1e3:11.3f} {ratio['ratio']:8.1f}", flush=True)


def table(report):
    """Ours beside the fastest of all peers that compute the same, as Markdown."""
    yield "| operator, shape | threads | pass | ours | of the ceiling | fastest peer | it takes | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for entry in report["shapes"]:
        for passes in ("forward", "forward+backward"):
            ratios = [ratio for ratio in entry["ratios"] if ratio["pass"] == passes and ratio["kind"] != "attention"]
            if not ratios:
                continue
            best = min(ratios, key=lambda ratio: ratio["seconds"])
            ours = entry["ours"]
            ceiling = f"{ours['fraction_of_ceiling']:.0%} {ours['ceiling']}" if passes == "forward" else ""
            yield (f"| {entry['operator']}, {entry['shape']} | {entry['threads']} | {passes} | {ours[passes] * 1e3:.2f} ms | {ceiling} "
                   f"| {best['peer']} | {best['seconds'] * 1e3:.2f} ms | {best['ratio']:.1f}× |")
    left_out = [(entry, row) for entry in report["shapes"] for row in entry["peers"] if "error" in row]
    if left_out:
        yield ""
    for entry, row in left_out:
        passes = "forward+backward" if "forward" in row else "any pass"
        yield f"- {entry['operator']}, {entry['shape']}, {entry['threads']} threads: no {passes} of {row['name']}: {row['error']}"


def write(path, peers, entries):
    """What is there so far, whole at any time."""
    options = peers.options
    report = {"torch": peers.torch.__version__, "device": options.device, "clock": options.clock, "shapes": entries}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.rename(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--threads", type=lambda text: [int(count) for count in text.split(",")], default=[1], help="counts (default 1)")
    add("--isa", choices=list(engine.LEVELS), help="hold both to this level of vector instructions (default: the machine's best)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--filter", default="", help="regular expression on operator/shape")
    add("--repeat", type=int, default=3, help="calls of each torch form at least (default 3)")
    add("--slow", action="store_true", help="also forward+backward of the token-by-token forms, which takes minutes")
    add("--clock", choices=["wall", "cpu"], default="wall")
    add("--binary", type=Path, help="our bench program, if it is not to be built")
    add("--jax", help="a Python that has jax, for its forms of state spaces")
    add("--render", type=Path, help="print a file written before as Markdown, measure nothing")
    add("--ours", type=Path, help="a report of `cargo bench kernels`, instead of timing our kernels again")
    add("--python", help="a Python that has torch, fla and mamba_ssm (default: one in the cache folder)")
    add("--cache", type=Path, default=ROOT / "target" / "peers", help="default target/peers")
    add("--json", type=Path, help="default CACHE/torch_kernels.json")
    options = parser.parse_args()
    engine.hold(options.isa)
    if options.jax and options.clock == "cpu":
        parser.error("--clock cpu does not reach jax's process")
    if options.clock == "cpu" and (options.threads != [1] or options.device != "cpu"):
        parser.error("--clock cpu counts the time of all threads together: use it with --threads 1 on the CPU")
    options.cache = options.cache.resolve()
    options.binary = options.binary and options.binary.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    return options


def main():
    options = arguments()
    if options.render:
        print("\n".join(table(json.loads(options.render.read_text()))))
        return
    in_environment(options)
    ours, peers = Reported(options.ours) if options.ours else Ours(options), Torch(options)
    print(f"{'shape':42} {'th':2} {'pass':17} {'ours ms':>10} {'of the ceiling':20} {'fastest peer':38} {'ms':>11} {'ratio':>8}")
    path, entries = options.json or options.cache / "torch_kernels.json", []
    for operator, shape in ours.shapes():
        if operator not in peers.all_forms.OPERATORS or not re.search(options.filter, f"{operator}/{shape}"):
            continue
        for threads in options.threads:
            load = os.getloadavg()[0]
            reports = [ours.time(operator, shape, threads)]
            _, sizes = summary(reports)
            if sizes is None:
                continue
            rows = list(peers.rows(operator, sizes, threads))
            if options.jax and operator in peers.all_forms.STATE_SPACES:
                rows += jax_rows(operator, sizes, threads, options)
            reports.append(ours.time(operator, shape, threads))
            fastest, _ = summary(reports)
            entry = {"operator": operator, "shape": shape, "sizes": sizes, "threads": threads, "load_average": load}
            entry |= {"ours": fastest, "peers": rows, "ratios": ratios(fastest, rows), "ceilings": reports[0]["ceilings"]}
            print_shape(entry)
            entries.append(entry)
            write(path, peers, entries)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
