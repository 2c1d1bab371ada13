#!/usr/bin/env python3
"""Loss against position of a byte-level Mamba-2 checkpoint in the original layout, by transformers: the figures of its page.

    loss_by_position.py CHECKPOINT_DIR TEXT [--streams 8] [--length 16384] [--every 40000]

Streams of LENGTH bytes begin EVERY bytes apart and go through the model byte by byte with the cache of its state, all of them as one
batch. Prints the mean loss in nats per byte between powers of two, and of a model that is restarted every RESET bytes. Needs torch,
transformers and safetensors; runs on the CPU in float32, for about two minutes.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Mamba2Config, Mamba2ForCausalLM


def model_of(folder):
    """The checkpoint as transformers' model: its fields and names differ, its tensors do not."""
    config = json.loads((folder / "config.json").read_text())
    ssm, width = config["ssm_cfg"], config["d_model"]
    inner = ssm.get("expand", 2) * width
    settings = Mamba2Config(
        vocab_size=config["vocab_size"], hidden_size=width, num_hidden_layers=config["n_layer"], state_size=ssm["d_state"],
        head_dim=ssm["headdim"], num_heads=inner // ssm["headdim"], expand=ssm.get("expand", 2), conv_kernel=ssm.get("d_conv", 4),
        n_groups=ssm.get("ngroups", 1), tie_word_embeddings=config["tie_embeddings"], use_bias=False, use_conv_bias=True,
        layer_norm_epsilon=1e-5, residual_in_fp32=True,
    )
    model = Mamba2ForCausalLM(settings)
    tensors = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def losses(model, ids, reset):
    """-log p of every byte after the first, `[streams, length]`; the state is emptied every `reset` bytes if that is not None."""
    found, cache = [], None
    for t in range(ids.shape[1] - 1):
        if t == 0 or (reset and t % reset == 0):
            cache = None
        position = torch.tensor([0 if cache is None else 1])
        out = model(ids[:, t : t + 1], cache_params=cache, use_cache=True, cache_position=position)
        cache = out.cache_params
        found.append(torch.nn.functional.cross_entropy(out.logits[:, -1], ids[:, t + 1], reduction="none"))
    return torch.stack(found, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--every", type=int, default=40000)
    parser.add_argument("--reset", type=int, help="also with the state emptied every so many bytes")
    options = parser.parse_args()
    model, text = model_of(options.checkpoint), options.text.read_bytes()
    rows = [list(text[i * options.every :][: options.length + 1]) for i in range(options.streams)]
    ids = torch.tensor(rows)
    of_all = losses(model, ids, None)
    edge, begin = 64, 0
    while begin < options.length:
        print(f"{begin:6} to {edge:6}: {of_all[:, begin:edge].mean():.4f}")
        begin, edge = edge, 2 * edge
    if options.reset:
        print(f"emptied every {options.reset}: {losses(model, ids, options.reset).mean():.4f}")


if __name__ == "__main__":
    main()
