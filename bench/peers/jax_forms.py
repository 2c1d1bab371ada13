#!/usr/bin/env python3
"""Times what JAX users have on a CPU for state spaces: the sums and the convolution of annotated-s4's kind, by jit.

    jax_forms.py OPERATOR SIZES [--threads 1] [--repeat 3]

`torch_kernels.py` runs this in the Python that has jax; SIZES is the JSON of a shape of `cargo bench kernels`. One line of JSON goes to
standard output: a row for each form, as torch's. The formulas are those of `torch_state_space.py`; XLA makes one loop of a sum and
what it sums, so that no array of terms exists.
"""

import argparse
import json
import os
import time


def hold(threads):
    """Keeps XLA to so many threads; before jax is imported, because its pools are made once."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")


def fastest(call, repeat):
    """Seconds of the fastest call of a compiled function, as torch_kernels.py counts: once where a call is slow."""
    begin = time.perf_counter()
    call()
    best = first = time.perf_counter() - begin
    for _ in range(0 if first > 5 else max(repeat, min(50, int(1 / max(first, 1e-4))))):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def forms(operator, sizes):
    """Name, inputs and function of each form."""
    import jax
    import jax.numpy as jnp
    import numpy

    random = numpy.random.default_rng(0)
    channels = sizes["channels"]

    def normal(*shape):
        return random.standard_normal(shape, dtype=numpy.float32)

    def complex_normal(*shape):
        return (normal(*shape) + 1j * normal(*shape)).astype(numpy.complex64)

    def system():
        modes = sizes["modes"]
        step = numpy.exp(-6.9 + 4.6 * random.random(channels, dtype=numpy.float32))
        return step, numpy.tile((-0.5 + 1j * numpy.pi * numpy.arange(modes)).astype(numpy.complex64), (channels, 1))

    def vandermonde(step, a, c):
        """2 Re sum C (exp(dt A) - 1)/A exp(dt A l)."""
        rate = a * step[:, None]
        powers = jnp.exp(rate[..., None] * jnp.arange(sizes["length"]))
        return 2.0 * ((c * (jnp.exp(rate) - 1.0) / a)[..., None] * powers).sum(1).real

    def in_reals(step, a, c):
        """The same in real numbers."""
        rate = a * step[:, None]
        weight = c * (jnp.exp(rate) - 1.0) / a
        l = jnp.arange(sizes["length"], dtype=jnp.float32)
        size, angle = jnp.exp(rate.real[..., None] * l), rate.imag[..., None] * l
        return 2.0 * (size * (weight.real[..., None] * jnp.cos(angle) - weight.imag[..., None] * jnp.sin(angle))).sum(1)

    def products(step, b, p, c):
        rows, columns = jnp.stack([c, p.conj()]), jnp.stack([b, p])
        return rows[:, None] * columns[None] * step[:, None]

    def roots(nodes):
        angle = 2.0 * jnp.pi * jnp.arange(nodes // 2 + 1) / nodes
        # The node -1, where 2(1 - w)/(1 + w) has no value, is moved away from it a little.
        angle = angle.at[-1].add(-1e-3) if nodes % 2 == 0 else angle
        omega = jnp.exp(-1j * angle)
        return omega, 2.0 * (1.0 - omega) / (1.0 + omega)

    def woodbury(k, omega):
        generating = k[0, 0] - k[0, 1] * k[1, 0] / (1.0 + k[1, 1])
        return jnp.fft.irfft(generating * 2.0 / (1.0 + omega), n=sizes["length"])

    def cauchy(step, a, b, p, c):
        """Both members of every pair: quotients and their sum."""
        omega, z = roots(sizes["length"])
        v, rate = products(step, b, p, c), a * step[:, None]
        v, rate = jnp.concatenate([v, v.conj()], -1), jnp.concatenate([rate, rate.conj()], -1)
        return woodbury((v[..., None] / (z - rate[..., None])).sum(-2), omega)

    def cauchy_of_pairs(step, a, b, p, c):
        """A denominator for each pair."""
        omega, z = roots(sizes["length"])
        v, rate = products(step, b, p, c), a * step[:, None]
        denominator = z * z - 2.0 * rate.real[..., None] * z + (jnp.abs(rate) ** 2)[..., None]
        numerator = 2.0 * (v.real[..., None] * z - (v * rate.conj()).real[..., None])
        return woodbury((numerator / denominator).sum(-2), omega)

    def convolution(u, kernel, skip):
        places = u.shape[-1] + kernel.shape[-1]
        spectrum = jnp.fft.rfft(u, n=places) * jnp.fft.rfft(kernel, n=places)
        return jnp.fft.irfft(spectrum, n=places)[..., : u.shape[-1]] + u * skip[:, None]

    if operator == "vandermonde":
        inputs = (*system(), complex_normal(channels, sizes["modes"]))
        found = [("jax.jit, complex sums", vandermonde), ("jax.jit, sums in reals", in_reals)]
    elif operator == "cauchy":
        step, a = system()
        b, p = (numpy.tile(complex_normal(sizes["modes"]), (channels, 1)) for _ in range(2))
        inputs = (step, a, b, p, complex_normal(channels, sizes["modes"]))
        found = [("jax.jit, quotients", cauchy), ("jax.jit, pairs", cauchy_of_pairs)]
    else:
        inputs = (normal(sizes["batch"], channels, sizes["time"]), normal(channels, sizes["taps"]), normal(channels))
        found = [("jax.jit, rfft and irfft", convolution)]
    for name, function in found:
        yield name, [jax.device_put(value) for value in inputs], function


def rows(operator, sizes, repeat):
    """Seconds forward and forward+backward of each form; an error's text where a form does not run."""
    import jax

    for name, inputs, function in forms(operator, sizes):
        row = {"name": name, "kind": "compiled"}
        try:
            forward = jax.jit(function).lower(*inputs).compile()
            row["forward"] = fastest(lambda: forward(*inputs).block_until_ready(), repeat)
            cotangent = jax.numpy.ones(forward.out_info.shape, forward.out_info.dtype)

            def both(cotangent, *inputs):
                out, pull = jax.vjp(function, *inputs)
                return out, pull(cotangent)

            both = jax.jit(both).lower(cotangent, *inputs).compile()
            row["forward+backward"] = fastest(lambda: jax.block_until_ready(both(cotangent, *inputs)), repeat)
        except (RuntimeError, ValueError, MemoryError) as error:
            row["error"] = str(error).splitlines()[0][:200]
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operator", choices=["vandermonde", "cauchy", "long_convolution"])
    parser.add_argument("sizes", type=json.loads)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    hold(options.threads)
    print(json.dumps(list(rows(options.operator, options.sizes, options.repeat))))


if __name__ == "__main__":
    main()
