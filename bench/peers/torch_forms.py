"""What torch users have for each operator: functions of other packages where they import, ours where there is none.

`forms(operator, sizes, device)` gives what fits a shape; each form makes its inputs when it is asked to.
"""

import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass
from typing import Callable

import torch
import torch_state_space


@dataclass
class Form:
    """One way to compute an operator."""

    name: str
    kind: str  # "chunked", "fused", "plain" or "compiled" (what a user would take), "token by token", "attention" (another operator)
    inputs: Callable  # -> list of tensors that have gradients
    run: Callable  # (tensors) -> output
    bytes: int = 0  # that its forward pass holds at once, where they are many


def mamba_module(name):
    """A module of mamba_ssm. The package's own front page wants its CUDA extensions, so that is passed by on a CPU."""
    if "mamba_ssm" not in sys.modules and not torch.cuda.is_available():
        folders = importlib.util.find_spec("mamba_ssm").submodule_search_locations
        for package, folder in [("mamba_ssm", ""), ("mamba_ssm.modules", "/modules"), ("mamba_ssm.ops", "/ops")]:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [path + folder for path in folders]
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
    return importlib.import_module(f"mamba_ssm.{name}")


def fla(name):
    return importlib.import_module(f"fla.ops.{name}")


class Data:
    """Random inputs of a shape, on a device: decays between -0.2 and 0, keys of length 1 where the delta rule needs them."""

    def __init__(self, sizes, device, dtype):
        self.sizes, self.device, self.dtype = sizes, device, dtype
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape, dtype=None):
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype or self.dtype)

    def decay(self, *shape):
        uniform = torch.rand(shape, generator=self.generator, device=self.device, dtype=torch.float32)
        return -0.2 * uniform

    def query_key_value(self):
        s = self.sizes
        tokens = (s["batch"], s["time"])
        key = (*tokens, s["heads"], s["key_dim"])
        return [self.normal(*key), self.normal(*key), self.normal(*tokens, s["heads"], s["value_dim"])]

    def unit(self, tensor):
        return torch.nn.functional.normalize(tensor, dim=-1)


def by_chunks(tensor, chunk):
    """[B, T, H, D] as [B, H, chunks, chunk, D]."""
    batch, time, heads, size = tensor.shape
    return tensor.view(batch, time // chunk, chunk, heads, size).permute(0, 3, 1, 2, 4)


def chunked_per_key(query, key, value, log_decay, bonus=None, chunk=64):
    """The textbook form of GLA, and of RWKV-6 with a bonus: within a chunk one product of q exp(S) with k exp(-S).

    It divides by the decay over a chunk, so that only mild decays survive; it is the fastest that plain torch does.
    """
    q, k, v, g = (by_chunks(tensor, chunk) for tensor in (query, key, value, log_decay))
    sums = g.cumsum(-2)
    last = sums[..., -1:, :]
    updates = (k * (last - sums).exp()).transpose(-1, -2) @ v
    state, states = torch.zeros_like(updates[:, :, 0]), []
    for i in range(q.shape[2]):
        states.append(state)
        state = state * last[:, :, i].transpose(-1, -2).exp() + updates[:, :, i]
    # With a bonus a token reads the state before its own decay and update.
    q_decayed = q * (sums if bonus is None else sums - g).exp()
    scores = q_decayed @ (k * (-sums).exp()).transpose(-1, -2)
    out = q_decayed @ torch.stack(states, 2) + scores.tril(0 if bonus is None else -1) @ v
    if bonus is not None:
        out = out + (q * bonus[:, None, None] * k).sum(-1, keepdim=True) * v
    return out.permute(0, 2, 3, 1, 4).reshape(value.shape)


def heads_first(function):
    """A function of [B, H, T, ...] as one of [B, T, H, ...]."""
    def run(*tensors):
        return function(*(tensor.transpose(1, 2) for tensor in tensors)).transpose(1, 2)
    return run


def recurrence(data):
    s = data.sizes
    if s["decay"] == "PerKeyToken":
        yield from per_key(data)
    elif s["decay"] in ("PerHeadToken", "PerHead"):
        yield from per_head(data)
    elif s["decay"] == "None":
        naive = fla("linear_attn.naive")
        inputs = data.query_key_value
        for chunk in (64,):
            yield Form(f"fla naive_chunk_linear_attn {chunk}", "chunked", inputs,
                       lambda q, k, v: naive.naive_chunk_linear_attn(q, k, v, scale=1.0)[0])
        yield Form("fla naive_recurrent_linear_attn", "token by token", inputs,
                   lambda q, k, v: naive.naive_recurrent_linear_attn(q, k, v, scale=1.0)[0])


def per_head(data):
    """Mamba-2, simple GLA, RetNet."""
    s = data.sizes
    shared = s["groups"] < s["heads"]
    tokens = (s["batch"], s["time"])

    def inputs():
        q, k, v = data.query_key_value()
        if shared:  # one q and k for all heads, as Mamba-2's C and B
            q, k = (tensor[:, :, :1].contiguous() for tensor in (q, k))
        return [q, k, v, data.decay(*tokens, s["heads"])]

    def expand(q, k):
        return (tensor.expand(*tokens, s["heads"], -1) for tensor in (q, k))

    def simple_gla(chunk):
        naive = fla("simple_gla.naive").naive_chunk_simple_gla
        return lambda q, k, v, g: naive(*expand(q, k), v, g, chunk_size=chunk, scale=1.0)[0]

    def ssd(chunk):
        minimal = mamba_module("modules.ssd_minimal").ssd_minimal_discrete
        def run(q, k, v, g):
            q, k = expand(q, k)
            return minimal(v, g, k, q, chunk)[0]
        return run

    for chunk in (64, 128, 256):
        yield Form(f"mamba_ssm ssd_minimal_discrete {chunk}", "chunked", inputs, ssd(chunk))
        yield Form(f"fla naive_chunk_simple_gla {chunk}", "chunked", inputs, simple_gla(chunk))
    recurrent = fla("simple_gla.naive").naive_recurrent_simple_gla
    yield Form("fla naive_recurrent_simple_gla", "token by token", inputs,
               lambda q, k, v, g: recurrent(*expand(q, k), v, g, scale=1.0)[0])


def per_key(data):
    """GLA, and with a bonus RWKV-6."""
    s = data.sizes
    bonus = s["read_out"] == "Bonus"

    def inputs():
        tensors = data.query_key_value() + [data.decay(s["batch"], s["time"], s["heads"], s["key_dim"])]
        return tensors + [data.normal(s["heads"], s["key_dim"])] if bonus else tensors

    for chunk in (16, 32, 64):
        yield Form(f"torch chunk {chunk}", "chunked", inputs,
                   lambda *tensors, chunk=chunk: chunked_per_key(*tensors, chunk=chunk))
    if not bonus:
        naive = fla("gla.naive").naive_recurrent_gla
        yield Form("fla naive_recurrent_gla", "token by token", inputs, lambda *tensors: naive(*tensors)[0])
        return
    chunked = fla("rwkv6.chunk_naive").naive_chunk_rwkv6
    for chunk in (16, 32, 64):
        yield Form(f"fla naive_chunk_rwkv6 {chunk}", "chunked", inputs,
                   lambda q, k, v, w, u, chunk=chunk: heads_first(
                       lambda *tensors: chunked(*tensors, u, chunk_size=chunk))(q, k, v, w))
    naive = fla("rwkv6.recurrent_naive").naive_recurrent_rwkv6
    yield Form("fla naive_recurrent_rwkv6", "token by token", inputs,
               lambda q, k, v, w, u: heads_first(lambda *tensors: naive(*tensors, u, scale=1.0)[0])(q, k, v, w))


def selective_scan(data):
    s = data.sizes
    reference = mamba_module("ops.selective_scan_interface").selective_scan_ref

    def inputs():
        channels = (s["batch"], s["channels"], s["time"])
        step_size = 0.001 + 0.099 * torch.rand(channels, generator=data.generator, device=data.device)
        a = -torch.arange(1.0, s["state_dim"] + 1, device=data.device).repeat(s["channels"], 1)
        b, c = (data.normal(s["batch"], s["state_dim"], s["time"]) for _ in range(2))
        return [data.normal(*channels), step_size, a, b, c]

    yield Form("mamba_ssm selective_scan_ref", "token by token", inputs, reference)


def delta_rule(data):
    s = data.sizes
    tokens = (s["batch"], s["time"], s["heads"])

    def with_beta(*decay):
        def inputs():
            q, k, v = data.query_key_value()
            beta = torch.rand(tokens, generator=data.generator, device=data.device).to(data.dtype)
            return [q, data.unit(k), v, beta] + [data.decay(*tokens, *size) for size in decay]
        return inputs

    def low_rank():
        q, k, v = data.query_key_value()
        k = data.unit(k)
        return [q, k, v, -k, 0.5 * k, data.decay(*tokens, s["key_dim"])]

    chunks = (16, 32, 64)
    if s["transition"] == "LowRank":
        naive = fla("generalized_delta_rule.dplr.naive")
        for chunk in chunks:
            yield Form(f"fla dplr_chunkwise {chunk}", "chunked", low_rank, heads_first(
                lambda *tensors, chunk=chunk: naive.dplr_chunkwise(*tensors, chunk_size=chunk)[0]))
        yield Form("fla dplr_recurrence", "token by token", low_rank,
                   heads_first(lambda *tensors: naive.dplr_recurrence(*tensors)[0]))
    elif s["decay"] == "None":
        naive = fla("delta_rule.naive")
        for chunk in chunks:
            yield Form(f"fla delta_rule_chunkwise {chunk}", "chunked", with_beta(), heads_first(
                lambda *tensors, chunk=chunk: naive.delta_rule_chunkwise(*tensors, chunk_size=chunk)[0]))
        yield Form("fla delta_rule_recurrence", "token by token", with_beta(),
                   heads_first(lambda *tensors: naive.delta_rule_recurrence(*tensors)[0]))
    else:
        per_key_decay = s["decay"] == "PerKeyToken"
        naive = fla("kda.naive" if per_key_decay else "gated_delta_rule.naive")
        name = "kda" if per_key_decay else "gated_delta_rule"
        inputs = with_beta((s["key_dim"],) if per_key_decay else ())
        chunked, recurrent = (getattr(naive, f"naive_{form}_{name}") for form in ("chunk", "recurrent"))
        for chunk in chunks:
            yield Form(f"fla naive_chunk_{name} {chunk}", "chunked", inputs,
                       lambda q, k, v, beta, g, chunk=chunk: chunked(q, k, v, g=g, beta=beta, chunk_size=chunk)[0])
        yield Form(f"fla naive_recurrent_{name}", "token by token", inputs,
                   lambda q, k, v, beta, g: recurrent(q, k, v, g=g, beta=beta)[0])


# Operators of state spaces, that JAX has something for as well.
STATE_SPACES = {
    "vandermonde": lambda data: torch_state_space.vandermonde_forms(Form, data),
    "cauchy": lambda data: torch_state_space.cauchy_forms(Form, data),
    "long_convolution": lambda data: torch_state_space.long_convolution_forms(Form, data),
}
# Those that JAX's script knows nothing of.
AXES = {"long_convolution_nd": lambda data: torch_state_space.long_convolution_nd_forms(Form, data)}
# Operators that torch has something for.
OPERATORS = {"recurrence": recurrence, "selective_scan": selective_scan, "delta_rule": delta_rule, **STATE_SPACES, **AXES}


def forms(operator, sizes, device):
    """Every form of an operator at a shape: the plain ones in f32 on a CPU, the fused ones in bf16 on a GPU."""
    if device == "cpu":
        yield from OPERATORS[operator](Data(sizes, device, torch.float32))
    else:
        import torch_fused
        yield from torch_fused.forms(operator, Data(sizes, device, torch.bfloat16))
