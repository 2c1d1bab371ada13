"""The models of the speed table: what `spillway init` is asked for, and which peers can load that very checkpoint.

Widths and depths are those of the published models of 100 to 200 million parameters, or of 24 layers 768 wide where nothing of
that size was published.
"""

WIDE = {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 32000, "tie_word_embeddings": True}


def fla(model_type, **more):
    """flash-linear-attention's layout, which has no code for a CPU: no peer."""
    return {"arch": model_type, "layout": "flash", "config": {"model_type": model_type} | WIDE | more, "peers": []}


MAMBA = WIDE | {"vocab_size": 50280, "conv_kernel": 4, "expand": 2, "layer_norm_epsilon": 1e-5, "use_bias": False,
                "use_conv_bias": True}
BLINKDL = {"vocab_size": 65536, "n_embd": 768, "n_layer": 24, "dim_att": 768, "dim_ffn": 2688, "head_size": 64}

MODELS = {
    "mamba-130m": {
        "arch": "mamba1", "layout": "hugging", "peers": ["llama.cpp", "transformers", "candle"],
        "config": {"model_type": "mamba"} | MAMBA | {"state_size": 16, "intermediate_size": 1536, "time_step_rank": 48},
    },
    "mamba2-130m": {
        "arch": "mamba2", "layout": "hugging", "peers": ["llama.cpp", "transformers", "candle"],
        "config": {"model_type": "mamba2"} | MAMBA | {"state_size": 128, "num_heads": 24, "head_dim": 64, "n_groups": 1,
                                                      "chunk_size": 256},
    },
    "rwkv4-169m": {"arch": "rwkv4", "layout": "blinkdl", "size": "169m", "peers": ["rwkv"]},
    "rwkv4-169m-hf": {"arch": "rwkv4", "layout": "hugging", "size": "169m", "peers": ["transformers"]},
    "rwkv5-24x768": {
        "arch": "rwkv5", "layout": "blinkdl", "peers": ["rwkv", "candle"], "config": {"model_type": "rwkv5"} | BLINKDL,
    },
    "rwkv6-24x768": {
        "arch": "rwkv6", "layout": "blinkdl", "peers": ["rwkv", "llama.cpp"],
        "config": {"model_type": "rwkv6"} | BLINKDL | {"mix_rank": 32, "decay_rank": 64},
    },
    "rwkv7-0.1b": {"arch": "rwkv7", "layout": "blinkdl", "size": "0.1b", "peers": ["rwkv", "llama.cpp"]},
    "llama-24x768": {
        "arch": "llama", "layout": "hugging", "peers": ["llama.cpp", "transformers", "candle"],
        "config": {"model_type": "llama"} | WIDE | {"intermediate_size": 2048, "num_attention_heads": 12,
                   "num_key_value_heads": 12, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                   "max_position_embeddings": 4096, "hidden_act": "silu"},
    },
    "retnet-24x768": fla("retnet", num_heads=3),
    "gla-24x768": fla("gla", num_heads=4),
    "simple_gla-24x768": fla("simple_gla", num_heads=4),
    "linear_attn-24x768": fla("linear_attn", num_heads=4),
    "hgrn-24x768": fla("hgrn"),
    "gsa-24x768": fla("gsa", num_heads=4, num_slots=64),
    "delta_net-24x768": fla("delta_net", num_heads=6),
    "gated_deltanet-24x768": fla("gated_deltanet", num_heads=4, head_dim=144),
}
