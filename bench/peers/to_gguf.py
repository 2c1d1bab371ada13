#!/usr/bin/env python3
"""Writes a checkpoint as the GGUF file that llama.cpp reads.

| architecture | layouts |
|---|---|
| mamba, mamba2 | the original (`d_model`, `ssm_cfg`) and the Hugging Face one (`hidden_size`) |
| rwkv6, rwkv7 | BlinkDL |
| llama | Hugging Face |

Sizes are taken from the tensors' shapes where these tell. Weights are written in float32 and no tokenizer is written:
`llama-bench` times random ids, and `llama-quantize` makes the smaller types out of this file. Needs only numpy and the
`gguf` package.

    to_gguf.py CHECKPOINT_DIR OUT.gguf
"""

import argparse
import math
import sys
from pathlib import Path

import gguf
import numpy as np

from safetensors_file import CheckpointError, read_checkpoint

# llama.cpp needs some context length in the file; a recurrence has none, so any large number serves.
CONTEXT_LENGTH = 2**20


def transposed(values):
    return np.swapaxes(values, -1, -2)


def flat(values):
    return values.reshape(-1)


def column(values):
    return values.reshape(-1, 1)


def kernel(values):
    """A depthwise convolution's kernel without its middle axis of one."""
    return values.reshape(values.shape[0], values.shape[2])


def decay(values):
    """llama.cpp keeps A = -exp(A_log), not the logarithm."""
    return -np.exp(values)


class Conversion:
    """What one architecture's converter needs at hand."""

    def __init__(self, checkpoint, writer):
        self.checkpoint, self.writer = checkpoint, writer
        self.config, self.tensors = read_checkpoint(checkpoint)

    def common(self, embedding, layers):
        """Keys that every architecture has."""
        self.writer.add_vocab_size(embedding.shape[0])
        self.writer.add_context_length(CONTEXT_LENGTH)
        self.writer.add_embedding_length(embedding.shape[1])
        self.writer.add_block_count(layers)
        self.writer.add_tokenizer_model("none")
        self.writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    def add(self, name, values):
        self.writer.add_tensor(name, np.ascontiguousarray(values))

    def layer(self, index, prefix, table):
        """Adds one layer's tensors: {llama.cpp's name: name after the prefix, or (that, what to do with the values)}."""
        for target, source in table.items():
            source, change = source if isinstance(source, tuple) else (source, lambda values: values)
            self.add(f"blk.{index}.{target}", change(self.tensors[f"{prefix}.{index}.{source}"]))


def both(target, source):
    """The weight and the bias of a norm."""
    return {f"{target}.{part}": f"{source}.{part}" for part in ("weight", "bias")}


MAMBA = {
    "attn_norm.weight": "norm.weight",
    "ssm_in.weight": "mixer.in_proj.weight",
    "ssm_conv1d.weight": ("mixer.conv1d.weight", kernel),
    "ssm_conv1d.bias": "mixer.conv1d.bias",
    "ssm_out.weight": "mixer.out_proj.weight",
}
MAMBA1 = MAMBA | {
    "ssm_x.weight": "mixer.x_proj.weight",
    "ssm_dt.weight": "mixer.dt_proj.weight",
    "ssm_dt.bias": "mixer.dt_proj.bias",
    "ssm_a": ("mixer.A_log", decay),
    "ssm_d": "mixer.D",
}
MAMBA2 = MAMBA | {
    "ssm_dt.bias": "mixer.dt_bias",
    "ssm_a": ("mixer.A_log", lambda values: column(decay(values))),
    "ssm_d": ("mixer.D", column),
}


def mamba(conversion, second):
    """Mamba or Mamba-2 in either layout; raises on what llama.cpp cannot compute."""
    config, tensors, writer = conversion.config, conversion.tensors, conversion.writer
    mixer = config.get("ssm_cfg", config)
    embedding = next((tensors[f"backbone.{name}.weight"] for name in ("embedding", "embeddings")
                      if f"backbone.{name}.weight" in tensors), None)
    if embedding is None:
        raise CheckpointError(f"{conversion.checkpoint}: found no tensor backbone.embedding(s).weight")
    layers = config.get("n_layer", config.get("num_hidden_layers"))
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    # Where the file is silent, the original code ties the head to the embedding; so does Hugging Face's Mamba-1, not its 2.
    tied = config.get("tie_embeddings", config.get("tie_word_embeddings", "n_layer" in config or not second))
    first = "backbone.layers.0.mixer."
    inner = tensors[first + "out_proj.weight"].shape[1]
    channels, _, width = tensors[first + "conv1d.weight"].shape
    conversion.common(embedding, layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(width)
    writer.add_ssm_inner_size(inner)
    writer.add_layer_norm_rms_eps(epsilon)
    conversion.add("token_embd.weight", embedding)
    conversion.add("output_norm.weight", tensors["backbone.norm_f.weight"])
    if not tied and "lm_head.weight" in tensors:
        conversion.add("output.weight", tensors["lm_head.weight"])
    if second:
        groups = mamba2_sizes(conversion, mixer, channels, inner)
        norm = {"ssm_norm.weight": ("mixer.norm.weight", lambda values: values.reshape(groups, -1))}
    else:
        writer.add_ssm_state_size(tensors[first + "A_log"].shape[1])
        writer.add_ssm_time_step_rank(tensors[first + "dt_proj.weight"].shape[1])
        norm = {}
    for index in range(layers):
        conversion.layer(index, "backbone.layers", (MAMBA2 if second else MAMBA1) | norm)


def mamba2_sizes(conversion, mixer, channels, inner):
    """Writes what only Mamba-2 has; returns its number of groups."""
    writer = conversion.writer
    if mixer.get("norm_before_gate", False):
        raise CheckpointError("config.json: norm_before_gate is set, llama.cpp always gates before the norm")
    low, high = mixer.get("dt_limit", conversion.config.get("time_step_limit", (0.0, math.inf)))
    if low > 0.0 or high != math.inf:
        raise CheckpointError(f"config.json: a time-step limit of [{low}, {high}] is set, llama.cpp clamps nothing")
    groups = mixer.get("ngroups", conversion.config.get("n_groups", 1))
    writer.add_ssm_state_size((channels - inner) // (2 * groups))
    writer.add_ssm_time_step_rank(conversion.tensors["backbone.layers.0.mixer.A_log"].shape[0])
    writer.add_ssm_group_count(groups)
    return groups


# What RWKV-6 and 7 share.
RWKV = both("attn_norm", "ln1") | both("attn_norm_2", "ln2") | both("time_mix_ln", "att.ln_x") | {
    "time_mix_key.weight": "att.key.weight",
    "time_mix_value.weight": "att.value.weight",
    "time_mix_receptance.weight": "att.receptance.weight",
    "time_mix_output.weight": "att.output.weight",
    "channel_mix_key.weight": "ffn.key.weight",
    "channel_mix_value.weight": "ffn.value.weight",
}
RWKV6 = RWKV | {
    "time_mix_gate.weight": "att.gate.weight",
    "time_mix_lerp_x.weight": ("att.time_maa_x", flat),
    "time_mix_w1.weight": ("att.time_maa_w1", transposed),
    "time_mix_w2.weight": ("att.time_maa_w2", transposed),
    "time_mix_first.weight": "att.time_faaaa",
    "time_mix_decay.weight": ("att.time_decay", flat),
    "time_mix_decay_w1.weight": ("att.time_decay_w1", transposed),
    "time_mix_decay_w2.weight": ("att.time_decay_w2", transposed),
    "channel_mix_receptance.weight": "ffn.receptance.weight",
    "channel_mix_lerp_k.weight": ("ffn.time_maa_k", flat),
    "channel_mix_lerp_r.weight": ("ffn.time_maa_r", flat),
}
RWKV7 = RWKV | {
    "time_mix_k_k.weight": ("att.k_k", flat),
    "time_mix_k_a.weight": ("att.k_a", flat),
    "time_mix_r_k.weight": ("att.r_k", flat),
    "time_mix_g1.weight": ("att.g1", transposed),
    "time_mix_g2.weight": ("att.g2", transposed),
    "channel_mix_lerp_k.weight": ("ffn.x_k", flat),
}


def low_rank(letter, source):
    """An offset and its two factors."""
    table = {f"time_mix_{letter}0.weight": (f"att.{source}0", flat)}
    return table | {f"time_mix_{letter}{part}.weight": (f"att.{source}{part}", transposed) for part in (1, 2)}


def rwkv(conversion, version):
    """RWKV-6 or RWKV-7 in BlinkDL's layout."""
    tensors, writer = conversion.tensors, conversion.writer
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    att = "blocks.0.att."
    conversion.common(tensors["emb.weight"], layers)
    writer.add_head_count(0)
    writer.add_layer_norm_eps(1e-5)
    writer.add_token_shift_count(2)
    writer.add_feed_forward_length(tensors["blocks.0.ffn.key.weight"].shape[0])
    writer.add_wkv_head_size(tensors[att + ("time_faaaa" if version == 6 else "r_k")].shape[1])
    if version == 6:
        writer.add_time_mix_extra_dim(tensors[att + "time_maa_w1"].shape[1] // 5)
        writer.add_time_decay_extra_dim(tensors[att + "time_decay_w1"].shape[1])
        writer.add_rescale_every_n_layers(0)
        table, lerps = RWKV6, [f"time_maa_{letter}" for letter in "wkvrg"]
    else:
        writer.add_decay_lora_rank(tensors[att + "w1"].shape[1])
        writer.add_iclr_lora_rank(tensors[att + "a1"].shape[1])
        writer.add_value_residual_mix_lora_rank(tensors["blocks.1.att.v1"].shape[1])
        writer.add_gate_lora_rank(tensors[att + "g1"].shape[1])
        table, lerps = RWKV7 | low_rank("w", "w") | low_rank("a", "a"), [f"x_{letter}" for letter in "rwkvag"]
    for name, source in (("token_embd", "emb"), ("output", "head")):
        conversion.add(f"{name}.weight", tensors[f"{source}.weight"])
    for part in ("weight", "bias"):
        conversion.add(f"token_embd_norm.{part}", tensors[f"blocks.0.ln0.{part}"])
        conversion.add(f"output_norm.{part}", tensors[f"ln_out.{part}"])
    for index in range(layers):
        # The first layer of RWKV-7 has no value residual, but llama.cpp wants tensors of the rate's shape there.
        residual = low_rank("v", "a" if index == 0 else "v") if version == 7 else {}
        conversion.layer(index, "blocks", table | residual)
        fused = np.stack([flat(tensors[f"blocks.{index}.att.{lerp}"]) for lerp in lerps])
        conversion.add(f"blk.{index}.time_mix_lerp_fused.weight", fused[:, None, None, :])


def interleaved(heads):
    """llama.cpp turns neighbouring pairs, Hugging Face the halves of a head: the rows of queries and keys change places."""
    return lambda values: values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def llama(conversion):
    """Llama in Hugging Face's layout."""
    config, tensors, writer = conversion.config, conversion.tensors, conversion.writer
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    embedding = tensors["model.embed_tokens.weight"]
    conversion.common(embedding, config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_rope_dimension_count(config.get("head_dim") or embedding.shape[1] // heads)
    writer.add_rope_freq_base((config.get("rope_parameters") or config).get("rope_theta", 10000.0))
    conversion.add("token_embd.weight", embedding)
    conversion.add("output_norm.weight", tensors["model.norm.weight"])
    if not config.get("tie_word_embeddings", False):
        conversion.add("output.weight", tensors["lm_head.weight"])
    table = {
        "attn_norm.weight": "input_layernorm.weight",
        "attn_q.weight": ("self_attn.q_proj.weight", interleaved(heads)),
        "attn_k.weight": ("self_attn.k_proj.weight", interleaved(kv_heads)),
        "attn_v.weight": "self_attn.v_proj.weight",
        "attn_output.weight": "self_attn.o_proj.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "ffn_gate.weight": "mlp.gate_proj.weight",
        "ffn_up.weight": "mlp.up_proj.weight",
        "ffn_down.weight": "mlp.down_proj.weight",
    }
    for index in range(config["num_hidden_layers"]):
        conversion.layer(index, "model.layers", table)


CONVERTERS = {
    "mamba": lambda conversion: mamba(conversion, False),
    "mamba2": lambda conversion: mamba(conversion, True),
    "rwkv6": lambda conversion: rwkv(conversion, 6),
    "rwkv7": lambda conversion: rwkv(conversion, 7),
    "llama": llama,
}


def architecture(config):
    """llama.cpp's name of what a config.json describes; the original layout of Mamba has no `model_type`."""
    if "n_layer" in config and "model_type" not in config:
        return "mamba2" if config.get("ssm_cfg", {}).get("layer") == "Mamba2" else "mamba"
    return config.get("model_type")


def convert(checkpoint, out):
    """Converts the checkpoint folder to one float32 GGUF file, written under a temporary name first."""
    config, _ = read_checkpoint(checkpoint)
    name = architecture(config)
    if name not in CONVERTERS:
        raise CheckpointError(f"{checkpoint}: llama.cpp has no {name!r}, only {', '.join(CONVERTERS)}")
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, name)
    try:
        CONVERTERS[name](Conversion(checkpoint, writer))
    except KeyError as missing:
        raise CheckpointError(f"{checkpoint}: {missing} is missing") from missing
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
