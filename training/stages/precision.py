"""Matrix products in bfloat16 where the device has units for them, else in float32.

Without such units a CPU emulates bfloat16, and a product takes up to a hundred times as long as in float32
(`python -m bench.training.softmax`, "plain bfloat16"). A recipe's `bf16` is therefore a wish, and this module the one
place that knows whether it comes true. Weights and sums are float32 either way.

    with products(device, part.bf16):
        ...
    dtype = product_dtype(device, part.bf16)
"""

from __future__ import annotations

import torch

_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of x86, and of ARM


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself. Of a kind that cannot be asked, yes."""
    if device.type == "cpu":
        return any(torch.cpu.get_capabilities().get(unit, False) for unit in _UNITS)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def product_dtype(device: torch.device, bf16: bool) -> torch.dtype:
    """bf16: whether the recipe wants it."""
    return torch.bfloat16 if bf16 and has_bf16(device) else torch.float32


def products(device: torch.device, bf16: bool) -> torch.autocast:
    """The context in which a network's products have `product_dtype`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 and has_bf16(device))
