"""Semantic ids: what FAISS would give, frozen, reproducible; small catalogues, unknown items, collisions."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from model.semantic.codes import BASE, MASKED, SemanticEncoding, collisions, digest, pack
from training.stages.semantic_codes import code_bits, fit_codes, whitening

ITEMS = 400


def signals(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text that says most of the behaviour; a tenth of the items nobody has met."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((20, 12))
    text = (centres[np.arange(ITEMS) % 20] + 0.3 * draw.standard_normal((ITEMS, 12))).astype(np.float32)
    behaviour = (text @ draw.standard_normal((12, 8)) + 0.1 * draw.standard_normal((ITEMS, 8))).astype(np.float32)
    known = np.arange(ITEMS) % 10 != 3
    behaviour[~known] = 0
    return text, behaviour, known


def fit(seed: int = 0, **changes: int) -> SemanticEncoding:
    sizes = {"digits": 4, "codes": 16, "text_dim": 12, "collaborative_dim": 8} | changes
    return fit_codes(*signals(seed), **sizes)


def test_digits_are_those_of_the_quantiser_that_was_learnt() -> None:
    text, behaviour, known = signals()
    encoding = fit()
    parts = np.ascontiguousarray(encoding.embed(text, behaviour, known) @ encoding.rotation.T)
    quantiser = faiss.ProductQuantizer(parts.shape[1], 4, 4)
    faiss.copy_array_to_vector(encoding.centroids.ravel(), quantiser.centroids)
    packed = quantiser.compute_codes(parts)  # two digits of four bits a byte
    expected = np.stack([packed[:, 0] & 15, packed[:, 0] >> 4, packed[:, 1] & 15, packed[:, 1] >> 4], axis=1)
    np.testing.assert_array_equal(encoding.digits(text, behaviour, known), expected)
    np.testing.assert_allclose(encoding.rotation @ encoding.rotation.T, np.eye(20), atol=1e-4)


def test_the_learnt_rotation_describes_items_better_than_none() -> None:
    text, behaviour, known = signals()
    encoding = fit()

    def error(one: SemanticEncoding) -> float:
        parts = (one.embed(text, behaviour, known) @ one.rotation.T).reshape(ITEMS, 4, -1)
        found = np.stack([one.centroids[d, one.digits(text, behaviour, known)[:, d]] for d in range(4)], axis=1)
        return float(((parts - found) ** 2).sum())

    arrays = {name: getattr(encoding, name) for name in encoding.__slots__}
    rolled = SemanticEncoding(**(arrays | {"centroids": np.roll(encoding.centroids, 1, axis=0)}))
    assert error(encoding) < 0.7 * error(rolled)
    assert error(encoding) < 0.5 * float((encoding.embed(text, behaviour, known) ** 2).sum())


def test_whitened_directions_are_uncorrelated_and_of_unit_variance() -> None:
    text, _, known = signals()
    mean, directions = whitening(text[known], 5)
    white = (text[known] - mean) @ directions
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(5), atol=1e-3)
    flat = np.repeat(text[:, :1], 4, axis=1)  # of rank one
    assert whitening(flat, 4)[1].shape == (4, 1)


def test_the_same_data_gives_the_same_ids_to_the_byte(tmp_path: Path) -> None:
    """Fault 2.8.10: the published commands rebuild the ids in every run. Here they are made once, and can be again."""
    text, behaviour, known = signals()
    one, other = fit(), fit()
    one.save(tmp_path / "one.safetensors")
    other.save(tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    loaded = SemanticEncoding.load(tmp_path / "one.safetensors")
    digits = one.digits(text, behaviour, known)
    assert digest(loaded.digits(text, behaviour, known)) == digest(digits)
    changed = digits.copy()
    changed[3, 1] += 1
    assert digest(changed) != digest(digits)


def test_nothing_is_learnt_from_items_that_nobody_met_in_training() -> None:
    text, behaviour, known = signals()
    before = fit()
    other_text, other_behaviour = text.copy(), behaviour.copy()
    other_text[~known] *= 9
    other_behaviour[~known] = 5
    after = fit_codes(other_text, other_behaviour, known, digits=4, codes=16, text_dim=12, collaborative_dim=8)
    np.testing.assert_array_equal(before.centroids, after.centroids)
    np.testing.assert_array_equal(before.impute, after.impute)


def test_an_unknown_item_gets_the_id_that_its_text_implies() -> None:
    """Fault 2.8.7: unknown targets were encoded as code 0 of every digit."""
    text, behaviour, known = signals()
    encoding = fit()
    digits, by_text = encoding.digits(text, behaviour, known), encoding.digits(text)
    np.testing.assert_array_equal(digits[~known], by_text[~known])
    assert len(np.unique(pack(digits[~known]))) > 10, "not one id for all that is unknown"
    # Behaviour follows text here, so what is imputed should mostly agree with what was measured.
    agreement = (digits[known] == by_text[known]).mean()
    assert agreement > 0.5 > 3 * (digits[known] == np.roll(by_text[known], 1, axis=0)).mean()


@pytest.mark.parametrize(
    ("items", "codes", "bits"),
    [(12_000, 256, 8), (3_000, 256, 8), (1_000, 256, 6), (24, 256, 1), (2, 256, 1), (9_999, 64, 6)],
)
def test_a_small_catalogue_gets_fewer_codes(items: int, codes: int, bits: int) -> None:
    assert code_bits(items, codes) == bits


@pytest.mark.parametrize("signal", ["text", "behaviour"])
def test_either_signal_alone_will_do(signal: str) -> None:
    text, behaviour, known = signals()
    alone = fit(text_dim=0) if signal == "behaviour" else fit(collaborative_dim=0)
    digits = alone.digits(text, behaviour, known)
    assert collisions(digits[known])["ids"] > 100


def test_what_cannot_be_encoded_is_refused() -> None:
    text, behaviour, _ = signals()
    with pytest.raises(ValueError, match="0 items were met in training"):
        fit_codes(text, behaviour, np.zeros(ITEMS, bool), digits=4, codes=16, text_dim=4, collaborative_dim=4)
    with pytest.raises(ValueError, match="power of two from 2 to 256, not 100"):
        fit(codes=100)
    with pytest.raises(ValueError, match="with 0 directions are too few for 4 digits"):
        fit(text_dim=3, collaborative_dim=0)
    with pytest.raises(ValueError, match="1 to 6 digits"):
        fit(digits=10)


def test_collisions_are_counted() -> None:
    digits = np.array([[1, 2], [1, 2], [1, 3], [0, 0], [0, 0], [0, 0]], dtype=np.uint8)
    assert collisions(digits) == {
        "items": 6,
        "ids": 3,
        "colliding_items": 5,
        "colliding_ids": 2,
        "largest_group": 3,
    }


def test_packed_keys_tell_partial_ids_apart() -> None:
    draw = np.random.default_rng(0)
    partial = np.unique(draw.integers(MASKED, 256, (5_000, 6)), axis=0)
    keys = pack(partial)
    assert len(np.unique(keys)) == len(partial)
    assert keys.max() < BASE**6
    assert (keys >= 0).all()
