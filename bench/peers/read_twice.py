#!/usr/bin/env python3
"""What it costs to read a prompt twice: a recurrent model on 2N tokens beside softmax attention on N, and where they cross.

    read_twice.py [--lengths 4k,8k,16k,32k,64k] [--threads 2] [--type bf16] [--width 512] [--layers 12] [--json FILE]
    read_twice.py --render FILE

Three random models of one width and depth by `spillway init`: Based and JRT-RNN as their authors build them (gated convolutions,
Taylor attention in one layer of five, attention in a window of 256 tokens in another), and Llama's layers. All are timed by
`spillway bench`, in one run, length by length, so that what the machine does in those minutes meets all of them. JRT-RNN
reads N tokens, half of them both ways. The samples are the medians of the repeats.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEAD_DIM, FEATURES, WINDOW = 64, 16, 256
ATTENTION, BASED, PREFIX = "attention", "Based", "JRT-RNN"


def tokens(text):
    return int(text[:-1]) * 1024 if text.endswith("k") else int(text)


def based(options, mixer):
    """The published layout: the second of every five layers is Taylor attention, the third a window."""
    heads = options.width // HEAD_DIM
    every_fifth = lambda first: list(range(first, options.layers, 5))
    path = "based.models.mixers."
    return {
        "architectures": ["GPTLMHeadModel"], "model_type": "gpt2", "vocab_size": 32000, "n_embd": options.width,
        "n_layer": options.layers, "n_head": heads, "n_inner": 2 * options.width,
        "alt_mixer_layers": every_fifth(1), "alt_mixer_2_layers": every_fifth(2),
        "mixer": {"_target_": path + "convolution.BaseConv", "expand_proj": 4, "l_max": 2048, "use_bias": True, "kernel_sizes": 3},
        "alt_mixer": mixer | {"num_heads": heads, "feature_dim": FEATURES},
        "alt_mixer_2": {"_target_": path + "slide_attention.SlidingAttention", "causal": True, "num_heads": heads,
                        "window_size": WINDOW},
        "rms_norm": True, "layer_norm_epsilon": 1e-5, "activation_function": "swiglu", "rotary_emb_fraction": 1,
        "max_position_embeddings": 0, "qkv_proj_bias": False, "out_proj_bias": False, "mlp_fc1_bias": False,
        "mlp_fc2_bias": False, "residual_in_fp32": True, "tie_word_embeddings": True,
    }


def models(options):
    path = "based.models.mixers."
    causal = {"_target_": path + "linear_attention.LinearAttention", "l_max": 2048,
              "feature_map": {"_target_": path + "linear_attention.TaylorExp", "input_dim": FEATURES}}
    prefix = {"_target_": path + "prefix_linear_attention.PrefixLinearAttention", "l_max": 2048,
              "feature_name": "taylor_exp", "use_mask": True, "num_key_value_heads": options.width // HEAD_DIM}
    heads = options.width // HEAD_DIM
    llama = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": options.width,
        "intermediate_size": 11 * options.width // 4, "num_hidden_layers": options.layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }
    with_prefix = lambda length: based(options, prefix | {"enc_length": length // 2, "dec_length": length // 2})
    return {ATTENTION: ("llama", lambda _: llama), BASED: ("based", lambda _: based(options, causal)), PREFIX: ("jrt", with_prefix)}


def checkpoint(name, length, options):
    """The folder of random weights, made once; JRT-RNN has a configuration for each length."""
    arch, config = models(options)[name]
    folder = options.cache / f"{arch}-{options.layers}x{options.width}"
    folder = folder.with_name(f"{folder.name}-{length}") if name == PREFIX else folder
    if not (folder / "config.json").exists():
        file = options.cache / f"{folder.name}.json"
        file.write_text(json.dumps(config(length)))
        command = [options.spillway, "init", "--arch", arch, "--config", file, "--dtype", "bf16", "--out", folder, "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def parameters(folder, options):
    found = subprocess.run([options.spillway, "inspect", folder, "--json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(found)["parameters"]


def seconds(name, length, read, options):
    """The median time of a prompt of `read` tokens."""
    command = [options.spillway, "--threads", str(options.threads), "bench", checkpoint(name, length, options), "--json", "-q"]
    command += ["--dtype", options.type, "--prefill", str(read), "--decode", "0", "--repeats", str(options.repeats)]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    [part] = report["configurations"]
    [speed] = part["speeds"]
    return read / speed["tokens_per_second"], report["instructions"]


def measure(options):
    options.cache.mkdir(parents=True, exist_ok=True)
    report = {"date": str(datetime.date.today()), "threads": options.threads, "type": options.type, "width": options.width,
              "layers": options.layers, "repeats": options.repeats, "rows": [],
              "parameters": {name: parameters(checkpoint(name, options.lengths[0], options), options) for name in models(options)}}
    for length in options.lengths:
        row = {"length": length, "load_average": os.getloadavg()[0]}
        for key, name, read in [("attention", ATTENTION, length), ("once", BASED, length), ("twice", BASED, 2 * length),
                                ("prefix", PREFIX, length)]:
            row[key], report["instructions"] = seconds(name, length, read, options)
        report["rows"].append(row)
        print(row, file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


def crossing(rows):
    """The length at which reading twice costs as much as attention does, on straight lines in logarithms; None outside the lengths."""
    gaps = [(math.log(row["length"]), math.log(row["twice"] / row["attention"])) for row in rows]
    for (left, above), (right, below) in zip(gaps, gaps[1:]):
        if above > 0 >= below:
            return math.exp(left + (right - left) * above / (above - below))
    return None


def table(report):
    """The Markdown lines."""
    sizes = ", ".join(f"{name} {count / 1e6:.0f} M" for name, count in report["parameters"].items())
    yield (f"{report['layers']} layers of {report['width']}, {report['type']} ({sizes}); {report['threads']} threads, "
           f"{report['instructions']}; seconds, medians of {report['repeats']}:")
    yield ""
    yield "| N | attention, N | Based, N | Based, 2N | JRT-RNN, N | attention ÷ Based 2N | attention ÷ JRT-RNN | JRT-RNN ÷ Based |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in report["rows"]:
        attention, once, twice, prefix = (row[key] for key in ("attention", "once", "twice", "prefix"))
        yield (f"| {row['length']:,} | {attention:.2f} | {once:.2f} | {twice:.2f} | {prefix:.2f} | {attention / twice:.2f}× "
               f"| {attention / prefix:.2f}× | {prefix / once:.2f} |")
    yield ""
    where = crossing(report["rows"])
    if where:
        yield f"Reading twice costs as much as attention at N = {round(where, -2):,.0f}."
    elif all(row["twice"] <= row["attention"] for row in report["rows"]):
        yield "Reading twice costs less than attention at every length here."
    else:
        yield "Reading twice costs more than attention at the largest length here."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lengths", type=lambda text: [tokens(part) for part in text.split(",")], default=[4096 << n for n in range(5)],
        help="N, several with commas between (default 4k,8k,16k,32k,64k)")
    add("--threads", type=int, default=2)
    add("--type", default="bf16", choices=["f32", "bf16", "int8"], help="of the weights (default bf16)")
    add("--width", type=int, default=512, help="a multiple of 64 (default 512)")
    add("--layers", type=int, default=12, help="default 12")
    add("--repeats", type=int, default=1, help="of each prompt, after one that is not counted (default 1)")
    add("--spillway", type=Path, default=ROOT / "target" / "release" / "spillway")
    add("--cache", type=Path, default=ROOT / "target" / "peers")
    add("--json", type=Path, help="where everything measured goes")
    add("--render", type=Path, help="draw the table of such a file, and measure nothing")
    options = parser.parse_args()
    report = json.loads(options.render.read_text()) if options.render else measure(options)
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
