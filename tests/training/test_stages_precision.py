"""Products in bfloat16 only where the machine has units for them (training/stages/precision.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.stages import precision
from training.stages.precision import has_bf16, product_dtype, products

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, False),  # emulated there too
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({}, False),
    ],
)
def test_a_processor_is_asked_for_its_units(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(CPU) is expected


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_is_asked_without_emulation(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return has

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bf16(torch.device("cuda")) is has
    assert asked == [False]


def test_a_kind_of_device_that_cannot_be_asked_gets_what_the_recipe_says() -> None:
    assert has_bf16(torch.device("meta"))


@pytest.mark.parametrize(
    ("wanted", "has", "expected"),
    [
        (True, True, torch.bfloat16),
        (True, False, torch.float32),
        (False, True, torch.float32),
        (False, False, torch.float32),
    ],
)
def test_the_recipe_wishes_and_the_machine_decides(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, has: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: has)
    assert product_dtype(CPU, wanted) == expected
    with products(CPU, wanted):
        assert (torch.ones(2, 3) @ torch.ones(3, 2)).dtype == expected


def test_no_training_asks_for_bfloat16_on_its_own() -> None:
    """One that did would take a hundred times as long on a machine without units."""
    root = Path(__file__).parents[2]
    found = [
        path.name
        for folder in ("training", "bench/training")
        for path in sorted((root / folder).rglob("*.py"))
        if "torch.autocast(" in path.read_text(encoding="utf-8") and path.name != "precision.py"
    ]
    assert found == ["softmax.py"]  # the plain form that bench/training/softmax.py measures
