#!/usr/bin/env python3
"""Times Hugging Face transformers on a checkpoint in its own layout: Mamba, Mamba-2, RWKV-4, Llama.

    hugging_face.py CHECKPOINT_DIR [--types f32,bf16] [--threads 1,2] [--golden DIR] [--cache target/peers]

Runs in the Python that has torch, transformers and safetensors. Prefill keeps the logits of the last token alone where the
model's `forward` can; decode starts from an empty cache.
"""

import json
import os
import sys

# No kernel is fetched for a CPU, and asking for one would wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import engine
import torch
import transformers

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# How a model's state is handed over: argument of `forward`, attribute of its output.
STATES = {"mamba": "cache_params", "mamba2": "cache_params", "rwkv": "state", "llama": "past_key_values"}


class HuggingFace:
    """One model in one weight type."""

    version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def __init__(self, checkpoint, weight_type):
        dtype = DTYPES[weight_type]
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, local_files_only=True)
        self.model, self.state = model.eval(), STATES[model.config.model_type]

    @torch.inference_mode()
    def logits(self, ids):
        """Logits after every one of `ids`."""
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]

    @torch.inference_mode()
    def prefill(self, ids):
        output = self.model(input_ids=torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        return output.logits[0, -1].float().tolist()

    @torch.inference_mode()
    def decode(self, ids):
        state = {}
        for token in ids:
            output = self.model(input_ids=torch.tensor([[token]]), use_cache=True, logits_to_keep=1, **state)
            state = {self.state: getattr(output, self.state)}
        return output.logits


def check(golden):
    """Stops unless the model gives the logits that lie beside a golden checkpoint."""
    from safetensors.torch import load_file

    expected = load_file(golden / "expected.safetensors")
    model = HuggingFace(golden, "f32")
    for ids, logits in zip(expected["input_ids"].tolist(), expected["logits"].double()):
        error = ((model.logits(ids).double() - logits).norm() / logits.norm()).item()
        if not error <= 1e-4:
            sys.exit(f"error: {golden}: logits differ by {error:.1e}")
    print(f"{golden.name}: transformers' logits agree", flush=True)


def main():
    options = engine.parse(engine.parser(__doc__, ["f32", "bf16"]))
    for golden in options.golden:
        check(golden)
    config = json.loads((options.checkpoint / "config.json").read_text())
    if config.get("model_type") not in STATES:
        sys.exit(f"error: {options.checkpoint}: model_type {config.get('model_type')!r} is none of {', '.join(STATES)}")
    load = lambda weight_type: HuggingFace(options.checkpoint, weight_type)
    rows, prints = engine.time_engine("transformers", load, options, torch.set_num_threads, config["vocab_size"])
    engine.write_report(options, rows, prints)


if __name__ == "__main__":
    main()
