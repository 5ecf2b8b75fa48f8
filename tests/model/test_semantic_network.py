"""The network: one path for training, scoring and confidence; padding is nothing; the newest event has one place."""

from __future__ import annotations

import numpy as np
import torch

from model.semantic.codes import MASKED
from model.semantic.decoding import Decoding
from model.semantic.network import SemanticNetwork, SemanticShape, newest_first
from model.semantic.packed import HistoryReader
from tests.contracts.recommender_contract import rows_of
from tests.model import fitted_semantic as toy

SHAPE = SemanticShape(
    digits=4,
    codes=8,
    digit_dim=4,
    width=16,
    heads=2,
    feed_forward=32,
    decoder_feed_forward=32,
    encoder_layers=2,
    decoder_layers=2,
    max_history=10,
    memory=4,
)


def network() -> SemanticNetwork:
    torch.manual_seed(0)
    built = SemanticNetwork(SHAPE, torch.randint(8, (30, 4))).eval()
    with torch.no_grad():
        built.table.normal_()
        built.residual.normal_()
    return built


def test_padding_is_nothing_to_the_encoder() -> None:
    """Fault 2.8.2: an answer depended on how far its history was padded."""
    net, items = network(), torch.randn(1, 3, 16)
    alone = net.encoder(items)
    padded = net.encoder(torch.cat([items, torch.randn(1, 6, 16)], dim=1))
    torch.testing.assert_close(padded[:, :4], alone)


def test_slots_that_a_short_history_lacks_are_nothing_to_the_decoder() -> None:
    """Fault 2.8.2: zeros took most of the attention of a short history."""
    net = network()
    states, index = torch.randn(4, 16), torch.arange(4)[None]
    real = torch.tensor([[True, True, False, False]])
    codes = torch.full((1, 1, 4), MASKED)
    first = net.denoise(codes, net.decoder.context(states, index, real))
    states[2:] = torch.randn(2, 16) * 100
    torch.testing.assert_close(net.denoise(codes, net.decoder.context(states, index, real)), first)
    shorter = net.decoder.context(states[:2], index[:, :2].repeat(1, 2) % 2, real)
    torch.testing.assert_close(net.denoise(codes, shorter), first)
    every = net.decoder.context(states, index, torch.ones_like(real))
    assert not torch.allclose(net.denoise(codes, every), first), "real slots do count"


def test_slot_zero_is_the_newest_event_whatever_the_length() -> None:
    """Fault 2.8.8: positions counted from the oldest event gave the most recent one no stable place."""
    index, real = newest_first(6, 4, torch.device("cpu"))
    assert index[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert index[5].tolist() == [5, 4, 3, 2]
    assert real.sum(dim=1).tolist() == [1, 2, 3, 4, 4, 4]
    recommender = toy.fitted().recommender(Decoding())
    shape = recommender.network.shape
    for length in (0, 1, 2, 5, 6):
        history = np.arange(length, dtype=np.int64)
        (token,) = recommender.encode([history])
        with torch.no_grad():
            states = recommender.network.encoder(recommender.vectors[torch.from_numpy(history)][None])[0]
        np.testing.assert_allclose(token.condition[: shape.width], states[-1], atol=1e-5)
        assert token.condition[-1] == min(length + 1, shape.memory)


def test_how_old_the_oldest_read_event_is_does_not_move_the_newest() -> None:
    """The tail is read alike, whether it is all there is or the end of a long life."""
    recommender = toy.fitted().recommender(Decoding())
    longest = recommender.network.shape.max_history
    tail = np.arange(longest, dtype=np.int64)
    one, other = recommender.encode([tail, np.concatenate([rows_of(20, 14, 9), tail])])
    np.testing.assert_allclose(one.condition, other.condition, atol=1e-5)


def test_histories_read_in_one_sheet_are_read_as_one_by_one() -> None:
    net = network()
    vectors = torch.randn(30, 16)
    draw = np.random.default_rng(0)
    histories = [draw.integers(30, size=length).astype(np.int64) for length in (3, 0, 14, 1, 9, 9, 2, 30, 5, 0)]
    with torch.no_grad():
        states, real = HistoryReader(net.encoder, SHAPE).newest_states(vectors, histories)
        for n, history in enumerate(histories):
            tail = torch.from_numpy(history[-SHAPE.max_history :])
            read = net.encoder(vectors[tail][None])[0].flip(0)[: SHAPE.memory]
            assert int(real[n].sum()) == len(read)
            torch.testing.assert_close(states[n, : len(read)], read, atol=1e-5, rtol=1e-5)
            assert not states[n, len(read) :].any()


def test_the_encoder_is_causal_to_the_bit() -> None:
    net, items = network(), torch.randn(1, 8, 16)
    before = net.encoder(items)
    changed = items.clone()
    changed[0, 5] += 1
    after = net.encoder(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])


def test_a_hidden_digit_sees_every_shown_one_and_ids_beside_it_are_nothing() -> None:
    net = network()
    context = net.decoder.context(torch.randn(4, 16), torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool))
    codes = torch.tensor([[[1, MASKED, 3, MASKED], [5, 2, MASKED, MASKED]]])
    together = net.denoise(codes, context)
    for query in range(2):
        torch.testing.assert_close(net.denoise(codes[:, query : query + 1], context)[:, 0], together[:, query])
    for digit in (0, 2):  # earlier and later than the hidden one: the decoder is bidirectional
        other = codes.clone()
        other[0, 0, digit] = 7
        assert not torch.allclose(net.denoise(other, context)[0, 0, 1], together[0, 0, 1])
    np.testing.assert_allclose(together.exp().sum(dim=3).detach().numpy(), 1, atol=1e-5)


def test_a_chosen_context_is_that_of_the_chosen() -> None:
    net = network()
    states, index = torch.randn(12, 16), torch.arange(12).view(3, 4)
    context = net.decoder.context(states, index, torch.ones(3, 4, dtype=torch.bool))
    codes = torch.full((1, 1, 4), MASKED)
    whole = net.denoise(codes.expand(3, 1, 4), context)
    torch.testing.assert_close(net.denoise(codes, context[torch.tensor([2])]), whole[2:])
