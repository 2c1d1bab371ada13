"""Reads safetensors checkpoints into float32 numpy arrays, bfloat16 included (which numpy has no type for)."""

import json
import struct

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32, "BF16": np.uint16}


class CheckpointError(Exception):
    """A checkpoint that cannot be used, with what was expected and what was found."""


def read_safetensors(path):
    """Returns {name: array}; floating types become float32 (bfloat16 is the upper half of its bits)."""
    blob = np.memmap(path, dtype=np.uint8, mode="r")
    if blob.size < 8:
        raise CheckpointError(f"{path}: expected a safetensors header, found {blob.size} bytes")
    (length,) = struct.unpack("<Q", blob[:8].tobytes())
    header = json.loads(blob[8 : 8 + length].tobytes())
    data = blob[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: tensor {name} has type {entry['dtype']}, expected one of {list(DTYPES)}")
        begin, end = entry["data_offsets"]
        if end > data.size:
            raise CheckpointError(f"{path}: tensor {name} ends at byte {end} of the data, found {data.size} bytes")
        values = data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] in ("F16", "F64"):
            values = values.astype(np.float32)
        tensors[name] = values
    return tensors


def read_checkpoint(folder):
    """Returns (config, tensors) of a folder with config.json and one or several safetensors files."""
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    tensors = {}
    for name in names:
        tensors.update(read_safetensors(folder / name))
    return config, tensors
