"""For whom and for what a recommender is good, and what exploring costs: the tables of a report.

by_history(metrics, prepared)       quality by how long a user's history is
by_popularity(metrics, prepared)    quality by how popular the item is that they took next
exploring(recommender, prepared)    NDCG, coverage and diversity along the dial `explore`

It reads ranks that `training.evaluate` found and arrays; it knows no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.recommender import Dials, Recommender
from training.data.prepared import Prepared
from training.evaluate import Metrics

LENGTHS = ((0, 0), (1, 2), (3, 5), (6, 20), (21, None))
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
AT_MOST = 500  # users who are asked along the dial


def by_history(metrics: Metrics, prepared: Prepared) -> list[dict[str, Any]]:
    """One row for each of `LENGTHS`, first and last length: users, and hr@10 and ndcg@10, None without users."""
    lengths = _lengths(metrics, prepared)
    rows = []
    for first, last in LENGTHS:
        within = (lengths >= first) & (lengths <= (np.inf if last is None else last))
        label = f"{first} and more" if last is None else str(first) if first == last else f"{first} to {last}"
        rows.append({"history": label, **_quality(metrics, within)})
    return rows


def by_popularity(metrics: Metrics, prepared: Prepared) -> list[dict[str, Any]]:
    """One row for each tenth of the catalogue, most popular in training first, by the item that was to be found.

    share: of all training interactions that went to this tenth of the items.
    """
    counts = prepared.train_counts()
    place = np.empty(len(counts), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    tenth = place * 10 // len(counts)  # (N,) 0 is the most popular
    asked = prepared.evaluation(metrics.part)
    target = dict(zip(asked.users.tolist(), asked.targets.tolist(), strict=True))
    of_user = tenth[[target[user] for user in metrics.users.tolist()]]
    return [
        {
            "tenth": number + 1,
            "share": float(counts[tenth == number].sum() / max(1, counts.sum())),
            **_quality(metrics, of_user == number),
        }
        for number in range(10)
    ]


def exploring(
    recommender: Recommender, prepared: Prepared, *, users: int = AT_MOST, seed: int = 0, k: int = 10
) -> list[dict[str, float]]:
    """One row for each step of the dial: test ndcg@10, coverage@10 (share of the catalogue), diversity@10, changed@10.

    diversity: 1 less the mean cosine between two items of a list. changed: share of a list that another seed replaces:
    what a user gets who comes again. Each user has a seed of their own; items of the
    history are masked. Through `retrieve`, as the service does it. No row where nobody has a test target.
    """
    asked = prepared.evaluation("test")
    kept = np.sort(np.random.default_rng(seed).permutation(len(asked))[:users])
    if len(kept) == 0:
        return []
    histories = [asked.histories[n] for n in kept]
    tokens = [token for start in range(0, len(kept), 64) for token in recommender.encode(histories[start : start + 64])]
    rows = []
    for explore in STEPS:
        gains, spread, changed, found = [], [], [], np.zeros(len(prepared.catalogue), dtype=np.bool_)
        for n, token, history in zip(kept, tokens, histories, strict=True):
            eligible = np.ones(len(prepared.catalogue), dtype=np.bool_)
            eligible[history] = False
            tastes = recommender.generate([token] * 2, [Dials(explore, int(n)), Dials(explore, int(n) + len(asked))])
            answer, again = (recommender.retrieve(taste, eligible, k)[0] for taste in tastes)
            changed.append(float((~np.isin(answer, again)).mean()) if len(answer) else 0.0)
            place = np.flatnonzero(answer == asked.targets[n])
            gains.append(1 / np.log2(2 + place[0]) if len(place) else 0.0)
            found[answer] = True
            if len(answer) > 1:
                vectors = recommender.unit_vectors(answer).astype(np.float64)
                likeness = vectors @ vectors.T
                pairs = len(answer) * (len(answer) - 1)
                spread.append(1 - (likeness.sum() - np.trace(likeness)) / pairs)
        rows.append(
            {
                "explore": explore,
                "ndcg@10": float(np.mean(gains)),
                "coverage@10": float(found.mean()),
                "diversity@10": float(np.mean(spread)) if spread else 0.0,
                "changed@10": float(np.mean(changed)),
                "users": float(len(kept)),
            }
        )
    return rows


def _lengths(metrics: Metrics, prepared: Prepared) -> NDArray[np.int64]:
    asked = prepared.evaluation(metrics.part)
    length = {int(user): len(history) for user, history in zip(asked.users, asked.histories, strict=True)}
    return np.array([length[user] for user in metrics.users.tolist()], dtype=np.int64)


def _quality(metrics: Metrics, within: NDArray[np.bool_]) -> dict[str, Any]:
    users = int(within.sum())
    if users == 0:
        return {"users": 0, "hr@10": None, "ndcg@10": None}
    return {
        "users": users,
        "hr@10": float((metrics.ranks[within] <= 10).mean()),
        "ndcg@10": float(metrics.user_ndcg(10)[within].mean()),
    }
