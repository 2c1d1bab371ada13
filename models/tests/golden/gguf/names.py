"""Writes names.json: what the package `gguf` calls the tensors of hybrids, by architecture, as the conversions of llama.cpp hand them to it.

    python names.py      # with the package gguf 0.19.0
"""

import json
import struct
from pathlib import Path

import gguf

HERE = Path(__file__).parent
MODELS = {
    "jamba": "jamba-hf",
    "falcon-h1": "falcon_h1-hf",
    "granitehybrid": "granitemoehybrid-moe-hf",
    "nemotron_h_moe": "nemotron_h-hf",
    "qwen3next": "qwen3_next-hf",
    "qwen35": "qwen3_5-text-hf",
    "qwen35moe": "qwen3_5_moe-text-hf",
    "kimi-linear": "kimi_linear-hf",
}
# What conversions make of some tensors before they are named.
LAYER = "model.layers.{bid}."
EXPERTS = [LAYER + f"mlp.experts.{part}_proj.weight" for part in ("gate", "up", "down")]
MADE = {
    "jamba": EXPERTS,
    "falcon-h1": [LAYER + "mamba.dt_proj.bias", LAYER + "mamba.norm.weight"],
    "granitehybrid": [LAYER + "mamba.dt_proj.bias"]
    + [f"blk.{{bid}}.ffn_{part}{kind}.weight" for part in ("gate", "up") for kind in ("", "_shexp", "_exps")]
    + ["blk.{bid}.ffn_down.weight"],
    "nemotron_h_moe": ["backbone.layers.{bid}.mixer.dt.bias", "backbone.layers.{bid}.mixer.gate.e_score_correction.bias"] + EXPERTS[1:],
    "qwen3next": EXPERTS + [f"blk.{{bid}}.attn_{part}.weight" for part in ("qkv", "gate")] + [LAYER + "linear_attn.dt_proj.bias"],
    "qwen35": [LAYER + "linear_attn.dt_proj.bias"],
    "qwen35moe": EXPERTS + [LAYER + "linear_attn.dt_proj.bias"],
    "kimi-linear": [LAYER + f"block_sparse_moe.experts.{part}.weight" for part in ("w1", "w2", "w3")]
    + [LAYER + "self_attn.dt_proj.bias", LAYER + "block_sparse_moe.gate.e_score_correction.bias"]
    + [LAYER + f"self_attn.{part}_b_proj.weight" for part in "kv"],
}


def stored(model):
    """The names of a checkpoint's tensors, with {bid} in the place of the number of a layer."""
    with open(HERE.parent / "models" / model / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    for name in header:
        parts = name.split(".")
        if "layers" in parts:
            parts[parts.index("layers") + 1] = "{bid}"
        yield ".".join(parts)


names = {}
for architecture, model in MODELS.items():
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    known = gguf.get_tensor_name_map(number, 8)
    found = {}
    for name in sorted(set(stored(model)) | set(MADE[architecture])):
        theirs = known.get_name(name.replace("{bid}", "7"), try_suffixes=(".weight", ".bias"))
        if theirs is not None:
            found[name] = theirs.replace("blk.7.", "blk.{bid}.")
    names[architecture] = found
Path(HERE / "names.json").write_text(json.dumps(names, indent=1, sort_keys=True) + "\n")
