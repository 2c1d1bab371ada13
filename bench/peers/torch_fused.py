"""The fused kernels that torch users run on a GPU: FLA's in Triton, mamba_ssm's, FlashAttention where it is installed.

A package that does not import is named once and left out.
"""

import importlib
import sys

import torch

from torch_forms import Form, fla

MISSING = set()


def module(name):
    """A module, or None where it does not import."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        if name not in MISSING:
            MISSING.add(name)
            print(f"[peers] {name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def recurrence(data):
    s = data.sizes
    tokens = (s["batch"], s["time"])
    decay = s["decay"]
    plain = data.query_key_value

    def per_head():
        return [*plain(), data.decay(*tokens, s["heads"])]

    def per_key():
        return [*plain(), data.decay(*tokens, s["heads"], s["key_dim"]).to(data.dtype)]

    def with_bonus():
        return [*per_key(), data.normal(s["heads"], s["key_dim"])]

    if decay in ("PerHead", "PerHeadToken"):
        yield Form("fla chunk_simple_gla", "fused", per_head,
                   lambda q, k, v, g: fla("simple_gla").chunk_simple_gla(q, k, v, g, scale=1.0)[0])
    if decay == "PerHead":
        yield Form("fla chunk_retention", "fused", plain,
                   lambda q, k, v: fla("retention").chunk_retention(q, k, v, scale=1.0)[0])
    if decay == "PerHeadToken" and s["groups"] == 1:
        yield from mamba2(data)
    if decay == "PerKeyToken" and s["read_out"] == "Inclusive":
        yield Form("fla chunk_gla", "fused", per_key,
                   lambda q, k, v, g: fla("gla").chunk_gla(q, k, v, g, scale=1.0)[0])
    if decay == "PerKeyToken" and s["read_out"] == "Bonus":
        yield Form("fla chunk_rwkv6", "fused", with_bonus,
                   lambda q, k, v, w, u: fla("rwkv6").chunk_rwkv6(q, k, v, w, u, scale=1.0)[0])
    if decay == "None":
        yield Form("fla chunk_linear_attn", "fused", plain,
                   lambda q, k, v: fla("linear_attn").chunk_linear_attn(q, k, v, scale=1.0, normalize=False)[0])
        yield from based(data)
    yield from attention(data)


def mamba2(data):
    """mamba_ssm's, which takes step sizes and one decay rate a head."""
    s = data.sizes
    combined = module("mamba_ssm.ops.triton.ssd_combined")
    if combined is None:
        return
    tokens = (s["batch"], s["time"])

    def inputs():
        x = data.normal(*tokens, s["heads"], s["value_dim"])
        step_size = -data.decay(*tokens, s["heads"])
        rate = -torch.ones(s["heads"], device=data.device)
        b, c = (data.normal(*tokens, 1, s["key_dim"]) for _ in range(2))
        return [x, step_size, rate, b, c]

    for chunk in (64, 128, 256):
        yield Form(f"mamba_ssm mamba_chunk_scan_combined {chunk}", "fused", inputs,
                   lambda *tensors, chunk=chunk: combined.mamba_chunk_scan_combined(*tensors, chunk))


def based(data):
    """Taylor features made inside of the kernel, from 16 values of query and key."""
    s = data.sizes
    if s["key_dim"] != 273:
        return
    tokens = (s["batch"], s["time"], s["heads"])

    def inputs():
        return [data.normal(*tokens, 16), data.normal(*tokens, 16), data.normal(*tokens, s["value_dim"])]

    for name in ("fused_chunk_based", "parallel_based"):
        yield Form(f"fla {name}", "fused", inputs,
                   lambda *tensors, name=name: getattr(fla("based"), name)(*tensors, use_norm=False))


def attention(data):
    """Softmax attention of the same heads: another operator, for scale."""
    s = data.sizes
    flash = module("flash_attn")
    size = s["value_dim"]
    if flash is None or size > 256 or size % 8:
        return

    def inputs():
        return [data.normal(s["batch"], s["time"], s["heads"], size) for _ in range(3)]

    yield Form("flash_attn_func causal", "attention", inputs, lambda q, k, v: flash.flash_attn_func(q, k, v, causal=True))


def selective_scan(data):
    s = data.sizes
    interface = module("mamba_ssm.ops.selective_scan_interface")
    if interface is None:
        return

    def inputs():
        channels = (s["batch"], s["channels"], s["time"])
        step_size = 0.001 + 0.099 * torch.rand(channels, generator=data.generator, device=data.device)
        a = -torch.arange(1.0, s["state_dim"] + 1, device=data.device).repeat(s["channels"], 1)
        b, c = (data.normal(s["batch"], s["state_dim"], s["time"]) for _ in range(2))
        return [data.normal(*channels), step_size.to(data.dtype), a, b, c]

    yield Form("mamba_ssm selective_scan_fn", "fused", inputs, interface.selective_scan_fn)


def delta_rule(data):
    s = data.sizes
    tokens = (s["batch"], s["time"], s["heads"])

    def with_beta():
        q, k, v = data.query_key_value()
        beta = torch.rand(tokens, generator=data.generator, device=data.device).to(data.dtype)
        return [q, data.unit(k), v, beta]

    def with_decay(*size):
        return lambda: [*with_beta(), data.decay(*tokens, *size)]

    def low_rank():
        q, k, v = data.query_key_value()
        k = data.unit(k)
        return [q, k, v, -k, 0.5 * k, data.decay(*tokens, s["key_dim"]).to(data.dtype)]

    if s["transition"] == "LowRank":
        dplr = fla("generalized_delta_rule.dplr").chunk_dplr_delta_rule
        yield Form("fla chunk_dplr_delta_rule", "fused", low_rank, lambda *tensors: dplr(*tensors, scale=1.0)[0])
    elif s["decay"] == "None":
        yield Form("fla chunk_delta_rule", "fused", with_beta,
                   lambda *tensors: fla("delta_rule").chunk_delta_rule(*tensors, scale=1.0)[0])
    elif s["decay"] == "PerHeadToken":
        gated = fla("gated_delta_rule").chunk_gated_delta_rule
        yield Form("fla chunk_gated_delta_rule", "fused", with_decay(),
                   lambda q, k, v, beta, g: gated(q, k, v, g=g, beta=beta, scale=1.0)[0])
    else:
        kda = fla("kda").chunk_kda
        yield Form("fla chunk_kda", "fused", with_decay(s["key_dim"]),
                   lambda q, k, v, beta, g: kda(q, k, v, g=g, beta=beta, scale=1.0)[0])


def forms(operator, data):
    """Every fused form of an operator at a shape."""
    yield from {"recurrence": recurrence, "selective_scan": selective_scan, "delta_rule": delta_rule}[operator](data)
