#!/usr/bin/env python3
"""Fetches, builds and times llama.cpp on a checkpoint, as the peer of `spillway bench`: what `to_gguf.py` converts.

    llama_cpp.py CHECKPOINT_DIR [--types f32,bf16,q8_0] [--threads 1,2] [--cache target/peers]

Everything that is fetched or built stays in the cache folder; a second run only times. Prefill is
`llama-bench -p N` (logits of the last token alone, 512 tokens per pass), decode is `-n N` from an empty state.
Needs a C++ compiler and Python with venv; CMake and Ninja are fetched. Figures mean something on a quiet machine only:
the load average before and after each process is in the JSON. `--clock cpu` counts CPU time (one thread only).
"""

import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import engine

HERE = Path(__file__).resolve().parent
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
TOOLS = ["cmake", "ninja", "numpy", "gguf==0.19.0", "scikit-build-core", "setuptools", "wheel"]
TARGETS = ["llama-bench", "llama-quantize"]
CMAKE_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
]
# Our name of a weight type -> llama-quantize's; float32 is what the conversion writes.
WEIGHT_TYPES = {"f32": None, "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}


class Peer:
    """The places inside one cache folder, and the steps that fill them; each step is skipped once its result is there."""

    def __init__(self, cache, jobs, isa=None):
        self.cache, self.jobs, self.suffix = cache, jobs, f"-{isa}" if isa else ""
        self.instructions = [f"-DGGML_{option}" for option in engine.LEVELS[isa]["llama.cpp"]] if isa else ["-DGGML_NATIVE=ON"]
        self.bin = cache / "venv" / "bin"
        self.source = cache / "src" / f"{PACKAGE.replace('-', '_')}-{VERSION}" / "vendor" / "llama.cpp"
        self.build = cache / f"build{self.suffix}"

    def log(self, name, command):
        """Runs a step at low priority with its output in a log file; on failure prints the log's end and stops."""
        path = self.cache / f"{name}.log"
        environment = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        print(f"[peers] {name}: {' '.join(map(str, command[:4]))} ...", file=sys.stderr, flush=True)
        with path.open("a") as log:
            done = subprocess.run(["nice", "-n", "10", *command], stdout=log, stderr=subprocess.STDOUT, env=environment)
        if done.returncode != 0:
            sys.exit(f"error: {name} failed, the end of {path}:\n" + path.read_text(errors="replace")[-2000:])

    def fetch(self):
        """Puts the build tools in a virtual environment and unpacks the source package."""
        self.cache.mkdir(parents=True, exist_ok=True)
        ready = self.cache / "venv.ready"
        if not ready.exists():
            self.log("venv", [sys.executable, "-m", "venv", self.cache / "venv"])
            self.log("tools", [self.bin / "pip", "install", "--disable-pip-version-check", *TOOLS])
            ready.touch()
        if not (self.source / "CMakeLists.txt").exists():
            command = [self.bin / "pip", "download", "--no-binary", PACKAGE, "--no-deps", "--no-build-isolation"]
            self.log("download", [*command, "-d", self.cache / "src", f"{PACKAGE}=={VERSION}"])
            archive = next((self.cache / "src").glob("llama_cpp_python-*.tar.gz"))
            with tarfile.open(archive) as package:
                package.extractall(self.cache / "src", filter="data")

    def compile(self):
        """Builds llama.cpp's two programs for this processor or the level asked for, and our two small helpers."""
        if not all((self.build / "bin" / target).exists() for target in TARGETS):
            cmake = self.bin / "cmake"
            self.log("configure", [cmake, "-G", "Ninja", "-S", self.source, "-B", self.build, *CMAKE_OPTIONS, *self.instructions])
            self.log("build", [cmake, "--build", self.build, "-j", str(self.jobs), "--target", *TARGETS])
        if not self.logits_program.exists():
            libraries = ["src/libllama.a"] + [f"ggml/src/lib{name}.a" for name in ("ggml", "ggml-cpu", "ggml-base")]
            includes = [f"-I{self.source / 'include'}", f"-I{self.source / 'ggml' / 'include'}"]
            command = ["c++", "-O2", "-std=c++17", HERE / "llama_logits.cpp", *includes]
            command += [self.build / library for library in libraries]
            self.log("logits", [*command, "-fopenmp", "-ldl", "-lpthread", "-o", self.logits_program])
        if not self.cpu_clock.exists():
            self.log("clock", ["cc", "-O2", "-shared", "-fPIC", HERE / "cpu_clock.c", "-o", self.cpu_clock])

    @property
    def logits_program(self):
        return self.cache / f"llama-logits{self.suffix}"

    @property
    def cpu_clock(self):
        return self.cache / "cpu_clock.so"

    def model(self, checkpoint, weight_type):
        """Returns the GGUF file of a checkpoint at a weight type, made anew when the checkpoint is younger."""
        folder = self.cache / "gguf"
        folder.mkdir(exist_ok=True)
        # Folders in different places may share a name, so the path's checksum is part of the file's.
        stem = f"{checkpoint.name}-{zlib.crc32(bytes(checkpoint)):08x}"
        base = folder / f"{stem}-f32.gguf"
        changed = max(file.stat().st_mtime for file in checkpoint.iterdir())
        if not base.exists() or base.stat().st_mtime < changed:
            self.log("convert", [self.bin / "python", HERE / "to_gguf.py", checkpoint, base])
        if WEIGHT_TYPES[weight_type] is None:
            return base
        path = folder / f"{stem}-{weight_type}.gguf"
        if not path.exists() or path.stat().st_mtime < base.stat().st_mtime:
            partial = path.with_suffix(".partial")
            quantize = self.build / "bin" / "llama-quantize"
            self.log("quantize", [quantize, base, partial, WEIGHT_TYPES[weight_type]])
            partial.rename(path)
        return path

    def check(self, checkpoint):
        """Compares the converted checkpoint's logits with the expected ones that lie beside it."""
        program = [self.bin / "python", HERE / "compare_logits.py"]
        subprocess.run([*program, checkpoint, self.model(checkpoint, "f32"), self.logits_program], check=True)

    def time(self, model, threads, options):
        """Runs llama-bench once over all tests; returns its JSON records and the process's peak memory in bytes."""
        command = [self.build / "bin" / "llama-bench", "-m", model, "-t", str(threads), "-r", str(options.repeat)]
        command += ["-p", ",".join(map(str, options.prefill)), "-n", ",".join(map(str, options.decode)), "-o", "json"]
        environment = dict(os.environ)
        if options.clock == "cpu":
            environment["LD_PRELOAD"] = str(self.cpu_clock)
        with (self.cache / "bench.log").open("a") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"error: llama-bench ended with {process.returncode}, see {self.cache / 'bench.log'}")
        return json.loads(output), usage.ru_maxrss * 1024


def fingerprint(peer, model, vocabulary):
    """The first logits after the prompt that all engines are given."""
    ids = engine.fingerprint_ids(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        ids_file, logits_file = Path(folder, "ids.i32"), Path(folder, "logits.f32")
        ids_file.write_bytes(struct.pack(f"<{len(ids)}i", *ids))
        subprocess.run([peer.logits_program, model, ids_file, logits_file], check=True, stderr=subprocess.DEVNULL)
        logits = logits_file.read_bytes()
    last = logits[len(logits) // len(ids) * (len(ids) - 1) :]
    return list(struct.unpack(f"<{engine.FINGERPRINT_LOGITS}f", last[: 4 * engine.FINGERPRINT_LOGITS]))


def time_all(peer, options, vocabulary):
    """Times every weight type with every thread count, printing each process's rows as they come."""
    rows, fingerprints = [], {}
    for weight_type in options.types:
        model = peer.model(options.checkpoint, weight_type)
        fingerprints[weight_type] = fingerprint(peer, model, vocabulary)
        for threads in options.threads:
            before = os.getloadavg()[0]
            records, peak = peer.time(model, threads, options)
            load = [before, os.getloadavg()[0]]
            for record in records:
                test = f"prefill {record['n_prompt']}" if record["n_prompt"] else f"decode {record['n_gen']}"
                version = f"llama.cpp {record['build_commit']} ({PACKAGE} {VERSION})"
                row = engine.row("llama.cpp", version, weight_type, threads, test, record["samples_ts"], load)
                rows.append(row | {"model_bytes": record["model_size"], "peak_memory_bytes": peak})
    return rows, fingerprints


def parse_arguments():
    parser = engine.parser(__doc__, ["f32", "bf16", "q8_0"])
    add = parser.add_argument
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: CPU time, for one thread on a busy machine")
    add("--jobs", type=int, default=2, help="parallel compilations (default 2)")
    add("--prepare-only", action="store_true", help="fetch, build and convert, time nothing")
    options = engine.parse(parser)
    unknown = [name for name in options.types if name not in WEIGHT_TYPES]
    if unknown:
        parser.error(f"--types: {unknown[0]!r} is not one of {', '.join(WEIGHT_TYPES)}")
    if options.clock == "cpu" and options.threads != [1]:
        parser.error("--clock cpu counts the CPU time of all threads together: use it with --threads 1")
    return options


def main():
    options = parse_arguments()
    peer = Peer(options.cache, options.jobs, options.isa)
    peer.fetch()
    peer.compile()
    for golden in options.golden:
        peer.check(golden.resolve())
    models = [peer.model(options.checkpoint, weight_type) for weight_type in options.types]
    if options.prepare_only:
        print("\n".join(map(str, models)))
        return
    config = json.loads((options.checkpoint / "config.json").read_text())
    rows, fingerprints = time_all(peer, options, config["vocab_size"])
    engine.write_report(options, rows, fingerprints)


if __name__ == "__main__":
    main()
