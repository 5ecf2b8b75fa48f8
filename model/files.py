"""The files that a bundle is made of: tensors and arrays, read whole into memory of our own, and small JSON. Knows no
bundle and no model.

    weights = read_tensors(folder / "weights.safetensors")
    write_json(folder / "shape.json", {"width": 64})
    shape = read_json(folder / "shape.json")

The readers that come with safetensors leave a file mapped for as long as what they gave is in use. A file that is cut
short or written anew in place, by a copy that goes wrong or a disk that fills, then takes the whole process with it
(SIGBUS), days after it was loaded and verified. Read like this, it is an error while loading and nothing afterwards.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.numpy
import safetensors.torch
from torch import Tensor, nn


def read_tensors(path: Path) -> dict[str, Tensor]:
    """By name. Raises OSError, or SafetensorError where the file is no whole one."""
    tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
    return tensors


def read_arrays(path: Path) -> dict[str, Any]:
    """The same as NumPy arrays."""
    arrays: dict[str, Any] = safetensors.numpy.load(path.read_bytes())
    return arrays


def own_memory(module: nn.Module) -> None:
    """Copies the weights of a module that somebody else's code read from a file, which may still be mapped."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """In lines, so that a person can read it and a diff is short."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises OSError, or ValueError where it is no JSON."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def sha256_of(module: nn.Module) -> str:
    """Over names, shapes and values of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
