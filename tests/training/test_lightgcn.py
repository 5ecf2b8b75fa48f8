"""LightGCN: propagation beside scipy's and a loop written out, its gradient, what it learns, and resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from training.data.prepared import Prepared
from training.recipe import load_recipe
from training.stages.lightgcn import bipartite, fit_graph, fit_lightgcn, propagate
from training.stages.loop import Loop
from training.train import train

PAIRS = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 2], [2, 0], [2, 3], [3, 3]])
USERS, ITEMS = 4, 5  # item 4 is nobody's


def test_propagation_is_what_scipy_computes() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(USERS + ITEMS, 3))
    taken = scipy.sparse.coo_array((np.ones(len(PAIRS)), PAIRS.numpy().T), shape=(USERS, ITEMS))
    adjacency = scipy.sparse.block_array([[None, taken], [taken.T, None]]).tocsr()
    degree = np.maximum(adjacency.sum(axis=1), 1)
    normal = scipy.sparse.diags_array(degree**-0.5) @ adjacency @ scipy.sparse.diags_array(degree**-0.5)
    expected = (x + normal @ x + normal @ (normal @ x)) / 3
    found = propagate(bipartite(PAIRS, USERS, ITEMS), torch.from_numpy(x).float(), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_layer_is_the_papers_sum() -> None:
    """Equation 3, written out: user 0 took items 0 and 1, each taken by two users."""
    x = torch.randn(USERS + ITEMS, 3, generator=torch.Generator().manual_seed(0))
    found = propagate(bipartite(PAIRS, USERS, ITEMS), x, 1)
    items = x[USERS:]
    torch.testing.assert_close(found[0], (x[0] + items[0] / 2 + items[1] / 2) / 2)
    torch.testing.assert_close(found[USERS + 4], x[USERS + 4] / 2)


def test_the_gradient_of_propagation_is_propagation() -> None:
    graph = bipartite(PAIRS, USERS, ITEMS)
    x = torch.randn(USERS + ITEMS, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(USERS + ITEMS, 3, generator=torch.Generator().manual_seed(1))
    dense = graph.to_dense()
    layer, total = x, x
    for _ in range(3):
        layer = dense @ layer
        total = total + layer
    (total / 4 * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(propagate(graph, weight, 3), x.grad)


def fit(prepared: Prepared, **how: object) -> tuple[np.ndarray, np.ndarray]:
    settings = {"dim": 16, "layers": 2, "epochs": 20, "rate": 1e-2, "seed": 0} | how
    return fit_lightgcn(*prepared.train_histories(), len(prepared.catalogue), **settings)


def test_items_of_one_crowd_come_to_lie_together(prepared_of: object) -> None:
    """Two crowds with ten items each; the last item is nobody's."""
    draw = np.random.default_rng(0)
    histories = [(draw.permutation(10) + 10 * (user % 2)).tolist()[:7] for user in range(60)]
    prepared = prepared_of(histories, 21)
    losses: list[float] = []
    found, known = fit(prepared, progress=lambda stage, epoch, of, values: losses.append(values["loss"]))
    unit = found[:20] / np.linalg.norm(found[:20], axis=1, keepdims=True)
    likeness = unit @ unit.T
    inside = (likeness[:10, :10].mean() + likeness[10:, 10:].mean()) / 2
    assert inside > likeness[:10, 10:].mean() + 0.5
    assert known.tolist() == [True] * 20 + [False]
    assert not found[20].any()
    assert losses[-1] < 0.7 * losses[0]
    assert losses[0] < np.log(2) + 0.05, "the first epoch begins near a coin's throw"


def test_users_find_the_items_of_their_crowd_and_a_watcher_ends_the_fit(prepared_of: object) -> None:
    draw = np.random.default_rng(0)
    prepared = prepared_of([(draw.permutation(10) + 10 * (user % 2)).tolist()[:7] for user in range(60)], 21)
    seen: list[np.ndarray] = []

    def watch(epoch: int, embed: object) -> bool:
        seen.append(embed()[1])
        return epoch == 15

    settings = {"dim": 16, "layers": 2, "epochs": 20, "rate": 1e-2, "seed": 0}
    users, items = fit_graph(*prepared.train_histories(), 21, **settings, watch=watch)
    assert len(seen) == 15
    np.testing.assert_array_equal(seen[-1], items)
    best = (users @ items.T).argsort(axis=1)[:, -10:]
    assert ((best // 10) == (np.arange(60) % 2)[:, None]).mean() > 0.95
    assert not items[20].any()


def test_the_same_seed_gives_the_same_embedding_and_a_cut_does_not_show(
    demo: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fit(demo, epochs=4)
    np.testing.assert_array_equal(fit(demo, epochs=4)[0], whole)
    assert not np.array_equal(fit(demo, epochs=4, seed=1)[0], whole)
    kept = {"checkpoint": tmp_path / "signals.safetensors", "keep_every": 0.0}
    original = Loop.next_epoch

    def cut(self: Loop, values: dict[str, float]) -> None:
        original(self, values)
        if self.place.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "next_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(demo, epochs=4, **kept)
    monkeypatch.undo()
    np.testing.assert_array_equal(fit(demo, epochs=4, **kept)[0], whole)


def test_nothing_of_validation_or_test_is_read_and_no_interaction_gives_zeros(prepared_of: object) -> None:
    one = prepared_of([[0, 1, 2, 3], [1, 2, 3, 4]] * 4, 5)
    other = prepared_of([[0, 1, 4, 4], [1, 2, 0, 0]] * 4, 5)
    np.testing.assert_array_equal(fit(one)[0], fit(other)[0])
    nothing = fit_lightgcn(np.zeros(1, np.int64), np.zeros(0, np.int32), 3, dim=2, layers=1, epochs=1, rate=0.1, seed=0)
    assert not nothing[0].any()
    assert not nothing[1].any()


def test_a_rate_that_is_too_high_is_told(demo: Prepared) -> None:
    with pytest.raises(ValueError, match=r"^LightGCN's loss is not finite in epoch \d+: lower signals.lightgcn_rate$"):
        fit(demo, rate=1e30)


def test_a_recipe_trains_on_it(demo: Prepared, tmp_path: Path) -> None:
    demo.write(tmp_path / "data")
    short = ("tokenizer.epochs=2", "trunk.epochs=1", "head.epochs=0", "signals.lightgcn_epochs=3")
    told: list[str] = []
    path = train(
        tmp_path / "data",
        "contrec",
        "tiny",
        bundles=tmp_path / "bundles",
        name="toy",
        overrides=(*short, "signals.collaborative=lightgcn"),
        progress=lambda stage, *_: told.append(stage),
    )
    assert told.count("lightgcn") == 3
    assert path.is_dir()
    assert load_recipe("contrec").signals.collaborative == "spectral", "the default"
