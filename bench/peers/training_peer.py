#!/usr/bin/env python3
"""Times training steps of a Hugging Face model: forward, backward, clipping and AdamW at f32 on a CPU.

    training_peer.py CHECKPOINT --text FILE --sequences B --length T --steps N [--threads 2]

`training_step.py` runs this in a process of its own, in the Python that has torch, transformers and safetensors. The batch of a
step is that of `spillway train` with `order = "documents"`: row b of B reads on from its share of the text, a ring. One line of
JSON goes to standard output.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

# No kernel is fetched for a CPU, and asking for one would wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

# As in the configuration that training_step.py writes for us.
OPTIMIZER = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
CLIP_NORM = 1.0


def resident():
    """Bytes resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def batch(text, sequences, length, step):
    """Ids and targets, `[sequences, length]`."""
    rows = []
    for row in range(sequences):
        start = row * len(text) // sequences + step * length
        rows.append([text[(start + index) % len(text)] for index in range(length + 1)])
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:]


def train(model, text, options):
    """The loss and the seconds of every step, by parts."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **OPTIMIZER)
    for step in range(options.steps):
        ids, targets = batch(text, options.sequences, options.length, step)
        clock = [time.perf_counter()]
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.append(time.perf_counter())
        forward, backward, update = (after - before for before, after in zip(clock, clock[1:]))
        yield {"loss": loss.item(), "gradient_norm": norm.item(), "forward": forward, "backward": backward, "optimizer": update}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    for name in ["sequences", "length", "steps"]:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(options.checkpoint, dtype=torch.float32, local_files_only=True).train()
    before = resident()
    steps = list(train(model, options.text.read_bytes(), options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"version": version, "memory_before_bytes": before, "peak_memory_bytes": peak, "steps": steps}))


if __name__ == "__main__":
    main()
