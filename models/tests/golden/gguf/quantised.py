"""Writes quantised.safetensors: values, and the blocks that the package `gguf` makes of them.

    python quantised.py      # with numpy, gguf and safetensors
"""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

TYPES = gguf.GGMLQuantizationType

random = np.random.default_rng(20261130)
values = random.normal(size=(40, 32)).astype(np.float32)
# Sizes from tiny to large, zeros, one value, equal magnitudes of both signs, halves between two steps.
values[:8] *= np.float32(10.0) ** np.arange(-6, 2, dtype=np.float32)[:, None]
values[8] = 0.0
values[9] = 0.0
values[9, 5] = -3.25
values[10] = np.where(np.arange(32) % 2 == 0, 1.5, -1.5)
values[11] = (np.arange(32) - 15.5) * np.float32(127 / 15.5 / 2)
values[12] = np.arange(-16, 16, dtype=np.float32) / 2
tensors = {"values": values}
for name, kind in {"q8_0": TYPES.Q8_0, "q4_0": TYPES.Q4_0}.items():
    tensors[f"{name}.blocks"] = gguf.quants.quantize(values, kind)
save_file(tensors, Path(__file__).parent / "quantised.safetensors")
