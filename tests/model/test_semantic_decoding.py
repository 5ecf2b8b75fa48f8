"""Decoding against plain twins: brute force over orders and ids beside the beam, one pass an id beside the batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from model.semantic.codes import MASKED, pack
from model.semantic.decoding import Decoding, beam, conditional, groups, masked_pass
from model.semantic.lattice import Lattice, spans
from model.semantic.network import Context, SemanticNetwork, SemanticShape
from model.semantic.packed import ContextMaker, FirstPass

N, DIGITS, CODES, HISTORIES = 60, 3, 4, 3


def case(seed: int = 0, digits: int = DIGITS, items: int = N) -> tuple[SemanticNetwork, Context, Lattice, Tensor]:
    """An untrained network with strong opinions, three histories, and a catalogue that fills half of all ids."""
    torch.manual_seed(seed)
    table = torch.randint(CODES, (items, digits))
    shape = SemanticShape(
        digits=digits,
        codes=CODES,
        digit_dim=4,
        width=16,
        heads=2,
        feed_forward=16,
        decoder_feed_forward=16,
        encoder_layers=1,
        decoder_layers=2,
        max_history=5,
        memory=3,
    )
    network = SemanticNetwork(shape, table).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(2.0)
        network.table.normal_()
        states = network.encoder(torch.randn(HISTORIES, 5, 16))[:, -3:].flip(1)
        index = torch.arange(3 * HISTORIES).view(HISTORIES, 3)
        real = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
        context = network.decoder.context(states.flatten(0, 1), index, real)
    return network, context, Lattice(table.numpy().astype(np.uint8)), table


@torch.no_grad()
def by_hand(network: SemanticNetwork, context: Context, line: int, shown: Tensor) -> Tensor:
    """(n, C) log-probabilities for one history and one partial id, alone."""
    one = context[torch.tensor([line])]
    return network.denoise(shown[None, None], one)[0, 0]


@torch.no_grad()
def plain_beam(
    network: SemanticNetwork, context: Context, line: int, table: Tensor, width: int, steps: int
) -> list[tuple[float, tuple[int, ...]]]:
    """The published idea with dictionaries and loops: one beam, one pair, one legality check at a time."""
    legal = {tuple(row) for row in table.tolist()}
    beams: dict[tuple[int, ...], tuple[float, Tensor]] = {
        (MASKED,) * table.shape[1]: (0.0, by_hand(network, context, line, torch.full((table.shape[1],), MASKED)))
    }
    for size in groups(table.shape[1], steps):
        beams = {k: (s, by_hand(network, context, line, torch.tensor(k))) for k, (s, _) in beams.items()}
        for _ in range(size):
            grown: dict[tuple[int, ...], tuple[float, Tensor]] = {}
            for key, (score, log_probs) in beams.items():
                for digit, code in itertools.product(range(table.shape[1]), range(CODES)):
                    if key[digit] != MASKED:
                        continue
                    child = (*key[:digit], code, *key[digit + 1 :])
                    if not any(all(c in (MASKED, w) for c, w in zip(child, whole, strict=True)) for whole in legal):
                        continue
                    found = score + float(log_probs[digit, code])
                    if child not in grown or found > grown[child][0]:
                        grown[child] = (found, log_probs)
            beams = dict(sorted(grown.items(), key=lambda entry: -entry[1][0])[:width])
    return sorted(((score, key) for key, (score, _) in beams.items()), reverse=True)


@pytest.mark.parametrize(("width", "steps"), [(1, 3), (3, 3), (8, 3), (8, 2), (8, 1), (200, 3)])
def test_the_beam_equals_its_plain_twin(width: int, steps: int) -> None:
    network, context, lattice, table = case(width)
    log_probs, _ = masked_pass(network, context)
    with torch.no_grad():
        nodes, scores = beam(network, context, log_probs, lattice, width, steps)
    for line in range(HISTORIES):
        expected = plain_beam(network, context, line, table, width, steps)
        real = nodes[line] >= 0
        np.testing.assert_allclose(scores[line][real], [score for score, _ in expected], atol=1e-4)
        assert {tuple(c) for c in lattice.codes[nodes[line][real]].tolist()} == {key for _, key in expected}


@torch.no_grad()
def test_the_packed_first_pass_equals_its_plain_twin() -> None:
    network, _, _, _ = case()
    states, real = torch.randn(HISTORIES, 3, 16), torch.arange(3) < torch.tensor([[3], [2], [1]])
    states[~real] = 0
    index = torch.arange(3 * HISTORIES).view(HISTORIES, 3)
    plain = network.decoder.context(states.flatten(0, 1), index, real)
    packed = ContextMaker(network.decoder)(states, real)
    for one, other in zip((*plain.keys, *plain.values), (*packed.keys, *packed.values), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(masked_pass(network, plain), FirstPass(network)(packed), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_every_beam_ends_at_an_id_of_the_catalogue_and_each_id_once() -> None:
    """Fault 2.8.4: legality was looked at after the search, and beams went to permutations of one partial id."""
    network, context, lattice, table = case()
    legal = {tuple(row) for row in table.tolist()}
    log_probs, _ = masked_pass(network, context)
    with torch.no_grad():
        nodes, scores = beam(network, context, log_probs, lattice, 200, DIGITS)
    for line in range(HISTORIES):
        found = [tuple(c) for c in lattice.codes[nodes[line][nodes[line] >= 0]].tolist()]
        assert len(found) == len(set(found)) == len(legal)
        assert set(found) == legal, "a wide beam reaches the whole catalogue"
        assert (np.diff(scores[line][: len(found)]) <= 0).all()


def test_the_last_digit_branches() -> None:
    """Fault 2.8.3: the last step was greedy, so of ids that share all digits but one a single one came back."""
    network, context, lattice, _ = case()
    log_probs, _ = masked_pass(network, context)
    with torch.no_grad():
        nodes, _ = beam(network, context, log_probs, lattice, 10, DIGITS)
    for line in range(HISTORIES):
        codes = lattice.codes[nodes[line]]
        close = (codes[:, None] != codes[None]).sum(axis=2) == 1
        assert close.any(), "two ids of the list differ in one digit alone"


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_conditional_passes_equal_one_id_and_one_digit_at_a_time(steps: int) -> None:
    network, context, _, table = case(5)
    log_probs, _ = masked_pass(network, context)
    codes = table[torch.randint(N, (HISTORIES, 7))]
    with torch.no_grad():
        found = conditional(network, context, log_probs, codes, steps)
    for line, one in itertools.product(range(HISTORIES), range(7)):
        order = sorted(range(DIGITS), key=lambda d: -float(log_probs[line, d].max()))
        whole, expected = codes[line, one], 0.0
        done = 0
        for size in groups(DIGITS, steps):
            shown = torch.full((DIGITS,), MASKED)
            shown[order[:done]] = whole[order[:done]]
            now = by_hand(network, context, line, shown)
            for digit in order[done : done + size]:
                expected += float(now[digit, whole[digit]] - log_probs[line, digit, whole[digit]])
            done += size
        assert float(found[line, one]) == pytest.approx(expected, abs=1e-4)
    if steps == 1:
        assert not found.any(), "with a single pass there is nothing to correct"
    else:
        assert found.abs().max() > 1e-2


@pytest.mark.parametrize(
    ("digits", "steps", "expected"),
    [(4, 4, [1, 1, 1, 1]), (4, 3, [1, 1, 2]), (4, 2, [2, 2]), (4, 1, [4]), (3, 9, [1] * 3)],
)
def test_the_steps_share_out_the_digits(digits: int, steps: int, expected: list[int]) -> None:
    assert groups(digits, steps) == expected


@pytest.mark.parametrize("wrong", [{"beam": -1}, {"candidates": -1}, {"weight": 1.5}, {"steps": 0}])
def test_a_way_of_decoding_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no way of decoding"):
        Decoding(**wrong)


# ----------------------------------------------------------------------------------------------------------------
# The lattice


def test_a_node_is_legal_exactly_where_an_item_agrees_with_it() -> None:
    _, _, lattice, table = case(7, digits=3, items=12)
    ids = table.numpy()
    partial = np.array(list(itertools.product(range(-1, CODES), repeat=3)))
    agrees = [bool(((p == MASKED) | (p == ids)).all(axis=1).any()) for p in partial]
    nodes = lattice.nodes(partial)
    np.testing.assert_array_equal(nodes >= 0, agrees)
    np.testing.assert_array_equal(lattice.codes[nodes[nodes >= 0]], partial[nodes >= 0])
    assert len(lattice.keys) == sum(agrees)


def test_children_show_one_digit_more_and_items_hang_on_whole_ids() -> None:
    _, _, lattice, table = case(8, digits=4, items=40)
    keys = pack(table.numpy())
    for node, codes in enumerate(lattice.codes):
        for edge in range(lattice.edges[node], lattice.edges[node + 1]):
            expected = codes.copy()
            assert expected[lattice.digit[edge]] == MASKED
            expected[lattice.digit[edge]] = lattice.code[edge]
            np.testing.assert_array_equal(lattice.codes[lattice.child[edge]], expected)
        rows = lattice.items[lattice.first[node] : lattice.first[node + 1]]
        np.testing.assert_array_equal(rows, np.flatnonzero(keys == lattice.keys[node]))
    assert len(lattice.child) == sum(int((c != MASKED).sum()) for c in lattice.codes)


def test_spans_join_ranges() -> None:
    index, source = spans(np.array([3, 7, 7, 0]), np.array([5, 7, 9, 1]))
    assert index.tolist() == [3, 4, 7, 8, 0]
    assert source.tolist() == [0, 0, 2, 2, 3]


def test_too_many_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="7 digits have too many partial ids"):
        Lattice(np.zeros((3, 7), dtype=np.uint8))
