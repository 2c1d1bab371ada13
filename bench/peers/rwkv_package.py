#!/usr/bin/env python3
"""Times the `rwkv` package (RWKV's own inference code) on a checkpoint in BlinkDL's layout, versions 4 to 7.

    rwkv_package.py CHECKPOINT_DIR [--types f32,bf16] [--threads 1,2] [--golden DIR] [--cache target/peers]

Runs in the Python that has torch, safetensors and rwkv. The package reads .pth files, so the tensors are stored as one in the
cache folder. Its RWKV-7 is another class, chosen by an environment variable, and multiplies its state by float32 factors.
"""

import json
import os
import re
import sys
import zlib
from importlib.metadata import version as installed
from pathlib import Path

import engine

STRATEGIES = {"f32": "cpu fp32", "bf16": "cpu bf16", "f16": "cpu fp16"}


def pth(checkpoint, cache):
    """The checkpoint's tensors as a .pth, without the suffix, which the package adds itself; made anew when it is older."""
    import torch
    from safetensors.torch import load_file

    folder = cache / "pth"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checkpoint.name}-{zlib.crc32(bytes(checkpoint)):08x}.pth"
    source = checkpoint / "model.safetensors"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        torch.save(load_file(source), path)
    return path.with_suffix("")


class Package:
    """One model in one weight type."""

    def __init__(self, checkpoint, weight_type, cache):
        import torch
        from rwkv.model import RWKV

        self.version = f"rwkv {installed('rwkv')}, torch {torch.__version__}"
        self.model = RWKV(model=str(pth(checkpoint, cache)), strategy=STRATEGIES[weight_type])
        self.inference_mode = torch.inference_mode

    def logits(self, ids):
        """Logits after every one of `ids`."""
        with self.inference_mode():
            return self.model.forward(list(ids), None, full_output=True)[0]

    def prefill(self, ids):
        with self.inference_mode():
            return self.model.forward(list(ids), None)[0].float().tolist()

    def decode(self, ids):
        state = None
        with self.inference_mode():
            for token in ids:
                logits, state = self.model.forward([token], state)
        return logits


def check(golden, cache):
    """Stops unless the package gives the logits that lie beside a golden checkpoint."""
    from safetensors.torch import load_file

    expected = load_file(golden / "expected.safetensors")
    model = Package(golden.resolve(), "f32", cache)
    for ids, logits in zip(expected["input_ids"].tolist(), expected["logits"].double()):
        error = ((model.logits(ids).double() - logits).norm() / logits.norm()).item()
        if not error <= 1e-4:
            sys.exit(f"error: {golden}: logits differ by {error:.1e}")
    print(f"{golden.name}: the package's logits agree", flush=True)


def main():
    options = engine.parse(engine.parser(__doc__, ["f32", "bf16"]))
    config = json.loads((options.checkpoint / "config.json").read_text())
    found = re.fullmatch(r"rwkv([4-7])?", config.get("model_type", ""))
    if not found:
        sys.exit(f"error: {options.checkpoint}: model_type {config.get('model_type')!r} is not rwkv4 to rwkv7")
    # The package decides by these when it is imported.
    os.environ["RWKV_V7_ON"] = "1" if found[1] == "7" else "0"
    import torch

    for golden in options.golden:
        check(golden, options.cache)
    load = lambda weight_type: Package(options.checkpoint, weight_type, options.cache)
    rows, prints = engine.time_engine("rwkv", load, options, torch.set_num_threads, config["vocab_size"])
    engine.write_report(options, rows, prints)


if __name__ == "__main__":
    main()
