#!/usr/bin/env python3
"""Writes a Mamba-2 checkpoint as the GGUF file that llama.cpp's `mamba2` architecture reads.

Both published layouts are accepted, the original one (`d_model`, `n_layer`, `ssm_cfg`) and the Hugging Face one
(`hidden_size`, `num_hidden_layers`); every size that a tensor's shape tells is taken from the shape. Weights are
written in float32 and no tokenizer is written: `llama-bench` times random ids, and `llama-quantize` makes the smaller
types out of this file. Needs only numpy and the `gguf` package.

    mamba2_to_gguf.py CHECKPOINT_DIR OUT.gguf
"""

import argparse
import math
import sys
from pathlib import Path

import gguf
import numpy as np

from safetensors_file import CheckpointError, read_checkpoint

# llama.cpp's tensor <- name inside `backbone.layers.N.`, and the shape it wants when that differs from the file's.
# `H` heads become a column [H, 1], the depthwise kernel [C, 1, W] loses its middle axis, the gated norm is per group.
LAYER_TENSORS = {
    "attn_norm.weight": ("norm.weight", None),
    "ssm_in.weight": ("mixer.in_proj.weight", None),
    "ssm_conv1d.weight": ("mixer.conv1d.weight", lambda shape, groups: (shape[0], shape[2])),
    "ssm_conv1d.bias": ("mixer.conv1d.bias", None),
    "ssm_dt.bias": ("mixer.dt_bias", None),
    "ssm_a": ("mixer.A_log", lambda shape, groups: (shape[0], 1)),
    "ssm_d": ("mixer.D", lambda shape, groups: (shape[0], 1)),
    "ssm_norm.weight": ("mixer.norm.weight", lambda shape, groups: (groups, shape[0] // groups)),
    "ssm_out.weight": ("mixer.out_proj.weight", None),
}
EMBEDDING_NAMES = ("backbone.embedding.weight", "backbone.embeddings.weight")
# llama.cpp needs some context length in the file; a recurrence has none, so any large number serves.
CONTEXT_LENGTH = 2**20


def settings(config):
    """Returns (layers, groups, norm epsilon, tied head) of either layout, or raises on what llama.cpp cannot compute."""
    mixer = config.get("ssm_cfg", config)
    if "ssm_cfg" in config and mixer.get("layer") != "Mamba2":
        raise CheckpointError(f"config.json: expected ssm_cfg.layer \"Mamba2\", found {mixer.get('layer')!r}")
    if mixer.get("norm_before_gate", False):
        raise CheckpointError("config.json: norm_before_gate is set, llama.cpp always gates before the norm")
    low, high = mixer.get("dt_limit", config.get("time_step_limit", (0.0, math.inf)))
    if low > 0.0 or high != math.inf:
        raise CheckpointError(f"config.json: a time-step limit of [{low}, {high}] is set, llama.cpp clamps nothing")
    layers = config.get("n_layer", config.get("num_hidden_layers"))
    if layers is None:
        raise CheckpointError("config.json: found neither n_layer nor num_hidden_layers")
    groups = mixer.get("ngroups", config.get("n_groups", 1))
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    # Where the file is silent, the original code ties the head to the embedding and the Hugging Face code does not.
    tied = config.get("tie_embeddings", config.get("tie_word_embeddings", "ssm_cfg" in config))
    return layers, groups, epsilon, tied


def add_metadata(writer, tensors, embedding, layers, groups, epsilon):
    """Writes the `mamba2.*` keys, sizes from the first layer's shapes."""
    layer = "backbone.layers.0.mixer."
    heads = tensors[layer + "A_log"].shape[0]
    inner = tensors[layer + "out_proj.weight"].shape[1]
    channels, _, width = tensors[layer + "conv1d.weight"].shape
    writer.add_vocab_size(embedding.shape[0])
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(embedding.shape[1])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(width)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size((channels - inner) // (2 * groups))
    writer.add_ssm_time_step_rank(heads)
    writer.add_ssm_group_count(groups)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_tensors(writer, tensors, embedding, layers, groups, tied):
    """Writes every tensor under llama.cpp's name; its decay is A = -exp(A_log), not the logarithm."""
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", tensors["backbone.norm_f.weight"])
    head = tensors.get("lm_head.weight")
    if not tied and head is not None:
        writer.add_tensor("output.weight", head)
    for index in range(layers):
        for target, (source, reshape) in LAYER_TENSORS.items():
            values = tensors[f"backbone.layers.{index}.{source}"]
            if target == "ssm_a":
                values = -np.exp(values)
            if reshape is not None:
                values = values.reshape(reshape(values.shape, groups))
            writer.add_tensor(f"blk.{index}.{target}", np.ascontiguousarray(values))


def convert(checkpoint, out):
    """Converts the checkpoint folder to one float32 GGUF file, written under a temporary name first."""
    config, tensors = read_checkpoint(checkpoint)
    layers, groups, epsilon, tied = settings(config)
    embedding = next((tensors[name] for name in EMBEDDING_NAMES if name in tensors), None)
    if embedding is None:
        raise CheckpointError(f"{checkpoint}: found none of the tensors {', '.join(EMBEDDING_NAMES)}")
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "mamba2")
    try:
        add_metadata(writer, tensors, embedding, layers, groups, epsilon)
        add_tensors(writer, tensors, embedding, layers, groups, tied)
    except KeyError as missing:
        raise CheckpointError(f"{checkpoint}: tensor {missing} is missing") from missing
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        convert(arguments.checkpoint, arguments.out)
    except (CheckpointError, OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
