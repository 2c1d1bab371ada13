"""Writes blocks.safetensors: random blocks of every format that is read, and the values that the package `gguf` makes of them.

    python expected.py      # with numpy, gguf and safetensors
"""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

TYPES = gguf.GGMLQuantizationType
FORMATS = {"q8_0": TYPES.Q8_0, "q4_0": TYPES.Q4_0, "q4_K": TYPES.Q4_K, "q5_K": TYPES.Q5_K, "q6_K": TYPES.Q6_K}

random = np.random.default_rng(20261129)
tensors = {}
for name, kind in FORMATS.items():
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (6, size), dtype=np.uint8)
    # Scales are f16, which random bytes need not be.
    places = {"q8_0": [0], "q4_0": [0], "q4_K": [0, 2], "q5_K": [0, 2], "q6_K": [208]}[name]
    for place in places:
        scales = random.normal(size=6).astype(np.float16)
        blocks[:, place : place + 2] = scales[:, None].view(np.uint8)
    tensors[f"{name}.blocks"] = blocks
    tensors[f"{name}.values"] = gguf.quants.dequantize(blocks, kind).astype(np.float32).reshape(6, values)
save_file(tensors, Path(__file__).parent / "blocks.safetensors")
