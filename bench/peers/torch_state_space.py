"""What torch users have on a CPU for state spaces: kernels of S4D and S4 without an extension, and the convolution by FFT.

The formulas are those of the papers (2111.00396, section 3 and appendix C; 2206.11893, section 3), written as torch users write them:
the whole array of terms, then its sum. `torch.compile` turns the same sums in real numbers into loops that never hold that array; KeOps,
where it is installed, does so for complex ones. Shapes are those of `cargo bench kernels`: `modes` counts one of each conjugate pair.
"""

import math

import torch

COMPLEX = 8  # bytes


def system(data):
    """Steps and rates as in our bench: the steps of S4 and the rates -1/2 + i pi n."""
    s = data.sizes
    uniform = torch.rand(s["channels"], generator=data.generator)
    step = (-6.9 + 4.6 * uniform).exp()
    n = torch.arange(s["modes"], dtype=torch.float32)
    return step, torch.complex(torch.full_like(n, -0.5), math.pi * n).repeat(s["channels"], 1)


def readout(data, rows=()):
    """Complex numbers for each channel and mode."""
    s = data.sizes
    shape = (*rows, s["channels"], s["modes"])
    return torch.complex(data.normal(*shape), data.normal(*shape))


def real_pairs(*tensors):
    """Real and imaginary parts, for what compiles real numbers only."""
    return [part.contiguous() for tensor in tensors for part in (tensor.real, tensor.imag)]


def vandermonde(step, a, c, length):
    """2 Re sum C (exp(dt A) - 1)/A exp(dt A l), by the whole array of powers."""
    rate = a * step[:, None]
    powers = (rate[..., None] * torch.arange(length)).exp()
    weights = c * (rate.exp() - 1.0) / a
    return 2.0 * torch.einsum("hn,hnl->hl", weights, powers).real


def vandermonde_in_reals(step, a_re, a_im, c_re, c_im, length):
    """The same in real numbers, for torch.compile to make one loop of."""
    re, im = a_re * step[:, None], a_im * step[:, None]
    # (exp(dt A) - 1)/A.
    grown, turn = re.exp(), (im.cos(), im.sin())
    x, y = grown * turn[0] - 1.0, grown * turn[1]
    norm = a_re * a_re + a_im * a_im
    b_re, b_im = (x * a_re + y * a_im) / norm, (y * a_re - x * a_im) / norm
    w_re, w_im = c_re * b_re - c_im * b_im, c_re * b_im + c_im * b_re
    l = torch.arange(length, dtype=torch.float32)
    size, angle = (re[..., None] * l).exp(), im[..., None] * l
    return 2.0 * (size * (w_re[..., None] * angle.cos() - w_im[..., None] * angle.sin())).sum(1)


def lazy_tensor():
    """KeOps' arrays that are reduced as they are formed; it says nothing of what it compiles."""
    import pykeops
    from pykeops.torch import LazyTensor
    pykeops.set_verbose(False)
    return LazyTensor


def vandermonde_by_keops(step, a, c, length):
    """The same sum of complex numbers, reduced as it is formed."""
    LazyTensor = lazy_tensor()
    rate = a * step[:, None]
    weights = c * (rate.exp() - 1.0) / a
    l = torch.arange(length, dtype=torch.float32).to(torch.cfloat)
    terms = LazyTensor(weights[:, None, :, None]) * (LazyTensor(rate[:, None, :, None]) * LazyTensor(l[None, :, None, None])).exp()
    return 2.0 * terms.sum(dim=2).squeeze(-1).real


def roots(nodes):
    """Roots of unity, and 2(1 - w)/(1 + w) of them; the node -1, where that has no value, is moved away from it a little."""
    angle = 2.0 * math.pi * torch.arange(nodes // 2 + 1) / nodes
    omega = torch.polar(torch.ones_like(angle), -angle)
    if nodes % 2 == 0:
        omega[-1] = torch.polar(torch.tensor(1.0), torch.tensor(-math.pi + 1e-3))
    return omega, 2.0 * (1.0 - omega) / (1.0 + omega)


def woodbury(k, omega, nodes):
    """From the four sums [2, 2, channels, nodes / 2 + 1] to the kernel."""
    generating = k[0, 0] - k[0, 1] * k[1, 0] / (1.0 + k[1, 1])
    return torch.fft.irfft(generating * 2.0 / (1.0 + omega), n=nodes)


def products(step, b, p, c):
    """The four products of a row with a column, times the step: [2, 2, channels, modes]."""
    rows, columns = torch.stack([c, p.conj()]), torch.stack([b, p])
    return rows[:, None] * columns[None] * step[:, None]


def cauchy_naive(step, a, b, p, c, nodes):
    """Both members of every pair, and the whole array of quotients."""
    omega, z = roots(nodes)
    v, rate = products(step, b, p, c), a * step[:, None]
    v, rate = torch.cat([v, v.conj()], -1), torch.cat([rate, rate.conj()], -1)
    return woodbury((v[..., None] / (z - rate[..., None])).sum(-2), omega, nodes)


def cauchy_of_pairs(step, a, b, p, c, nodes):
    """A denominator for each pair, shared by the four sums, which are matrix products."""
    omega, z = roots(nodes)
    v, rate = products(step, b, p, c), a * step[:, None]
    inverse = 1.0 / (z * z - 2.0 * rate.real[..., None] * z + (rate * rate.conj()).real[..., None])
    direct, crossed = 2.0 * v.real.to(v.dtype), 2.0 * (v * rate.conj()).real.to(v.dtype)
    by_root = torch.einsum("xyhn,hnl->xyhl", direct, inverse)
    return woodbury(z * by_root - torch.einsum("xyhn,hnl->xyhl", crossed, inverse), omega, nodes)


def cauchy_by_keops(step, a, b, p, c, nodes):
    """The sums of pairs, reduced as they are formed."""
    LazyTensor = lazy_tensor()
    omega, z = roots(nodes)
    v, rate = products(step, b, p, c), (a * step[:, None])
    shape = (2, 2, *rate.shape)
    rate = rate.expand(shape).reshape(-1, 1, rate.shape[-1], 1).contiguous()
    v = v.reshape(rate.shape).contiguous()
    z_ = z.reshape(1, -1, 1, 1)
    numerator = LazyTensor(2.0 * v.real.to(v.dtype)) * LazyTensor(z_) - LazyTensor(2.0 * (v * rate.conj()).real.to(v.dtype))
    linear, constant = (-2.0 * rate.real).to(v.dtype), (rate * rate.conj()).contiguous()
    denominator = LazyTensor(z_) * LazyTensor(z_) + LazyTensor(linear) * LazyTensor(z_) + LazyTensor(constant)
    return woodbury((numerator / denominator).sum(dim=2).reshape(2, 2, shape[2], -1), omega, nodes)


def fft_convolution(u, kernel, skip):
    """[batch, channels, time]: zeros behind, transforms, a product, a transform back."""
    time = u.shape[-1]
    places = time + kernel.shape[-1]
    spectrum = torch.fft.rfft(u, n=places) * torch.fft.rfft(kernel, n=places)
    return torch.fft.irfft(spectrum, n=places)[..., :time] + u * skip[:, None]


def compiled(function):
    """A function by torch.compile, compiled when it is first called."""
    return torch.compile(function, dynamic=False)


def vandermonde_forms(form, data):
    """`form` makes one of name, kind, inputs, function and the bytes that it holds at once, forward."""
    s = data.sizes
    length, terms = s["length"], s["channels"] * s["modes"] * s["length"]

    def inputs():
        return [*system(data), readout(data)]

    def in_reals():
        step, a, c = inputs()
        return [step, *real_pairs(a, c)]

    loops = compiled(vandermonde_in_reals)
    yield form("torch.compile, sums in reals", "compiled", in_reals, lambda *tensors: loops(*tensors, length), 0)
    yield form("torch, array of powers", "plain", inputs, lambda *tensors: vandermonde(*tensors, length), 3 * COMPLEX * terms)
    yield form("KeOps", "compiled", inputs, lambda *tensors: vandermonde_by_keops(*tensors, length), 0)


def cauchy_forms(form, data):
    s = data.sizes
    length, terms = s["length"], s["channels"] * s["modes"] * (s["length"] // 2 + 1)

    def inputs():
        step, a = system(data)
        b, p = (torch.complex(data.normal(s["modes"]), data.normal(s["modes"])).repeat(s["channels"], 1) for _ in range(2))
        return [step, a, b, p, readout(data)]

    yield form("torch, array of pairs", "plain", inputs, lambda *tensors: cauchy_of_pairs(*tensors, length), 3 * COMPLEX * terms)
    yield form("torch, array of quotients", "plain", inputs, lambda *tensors: cauchy_naive(*tensors, length), 18 * COMPLEX * terms)
    yield form("KeOps", "compiled", inputs, lambda *tensors: cauchy_by_keops(*tensors, length), 0)


def long_convolution_forms(form, data):
    s = data.sizes

    def inputs():
        kernel = data.normal(s["channels"], s["taps"])
        return [data.normal(s["batch"], s["channels"], s["time"]), kernel, data.normal(s["channels"])]

    once = compiled(fft_convolution)
    yield form("torch, rfft and irfft", "plain", inputs, fft_convolution, 0)
    yield form("torch.compile, rfft and irfft", "compiled", inputs, lambda *tensors: once(*tensors), 0)


def fft_convolution_nd(u, skip, *kernels):
    """Transforms over all axes of u, and of each axis of the kernel: its outer products are formed among frequencies."""
    axes = u.shape[2:]
    places = [2 * size for size in axes]
    spectrum = 0
    for term in range(kernels[0].shape[0]):
        product = 1
        for index, (kernel, places_of) in enumerate(zip(kernels, places)):
            last = index + 1 == len(axes)
            # Taps for later positions come from the other end.
            taps = torch.cat([kernel[term, :, places_of // 2 - 1:], torch.zeros_like(kernel[term, :, :1]),
                              kernel[term, :, :places_of // 2 - 1]], -1)
            factor = torch.fft.rfft(taps) if last else torch.fft.fft(taps)
            shape = [len(skip)] + [-1 if axis == index else 1 for axis in range(len(axes))]
            product = product * factor.reshape(shape)
        spectrum = spectrum + product
    whole = torch.fft.irfftn(torch.fft.rfftn(u, s=places, dim=tuple(range(2, u.ndim))) * spectrum, s=places,
                             dim=tuple(range(2, u.ndim)))
    return whole[(..., *(slice(size) for size in axes))] + u * skip.reshape(-1, *[1] * len(axes))


def long_convolution_nd_forms(form, data):
    s = data.sizes

    def inputs():
        kernels = [data.normal(s["rank"], s["channels"], 2 * size - 1) for size in s["axes"]]
        return [data.normal(s["batch"], s["channels"], *s["axes"]), data.normal(s["channels"]), *kernels]

    once = compiled(fft_convolution_nd)
    yield form("torch, rfftn and irfftn", "plain", inputs, fft_convolution_nd, 0)
    yield form("torch.compile, rfftn and irfftn", "compiled", inputs, lambda *tensors: once(*tensors), 0)
