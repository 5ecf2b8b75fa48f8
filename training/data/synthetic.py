"""Synthetic data: an invented catalogue of films, and users whose taste is known exactly.

Because the probability of every next item is known, so is the best that any model can reach: the oracle goes
through the same evaluator as a model, and a test can say how close one comes. The demo is trained on it too.

How a user picks the next film, given the history h (films are watched once):

    p(j | u, h)  ∝  [j not in h] * ( chain * next(j | h) + (1 - chain) * taste(j | u, h) )
    next         the following part of the series seen last (0.6), one before (0.25), one before that (0.15), over
                 those that have a following part; where none has, its share goes to taste
    taste        noise * popularity(j) + (1 - noise) * ( mood * w(j | theme of the last film)
                                                         + (1 - mood) * sum over themes z of theta[u, z] w(j | z) )

theta is the user's mixture over two or three themes, w a theme's own popularity (first parts above later ones).
So order matters twice (series, mood), collaboration once (theta), and text tells theme, category and series.

    world = generate(Sizes(users=500, items=400, events=30))
    p = world.next_item(user=0, history=rows)         # (N,) sums to 1
    evaluate(world.scorer(prepared), prepared, "test")        # the best possible
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Item, Rows
from model.recommender import Floats
from training.data import invented
from training.data.prepared import DataError, Prepared
from training.data.rows import UNTYPED, Interactions, Numbers
from training.data.table import Source
from training.evaluate import Scorer

SERIES_WEIGHTS = (0.6, 0.25, 0.15)
PARTS_OF_A_SERIES = (1, 1, 3, 4, 5)  # drawn from: two films in five stand alone
START, YEAR = 1_735_689_600, 365 * 86_400  # the events fill 2025


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is generated. events: mean per user. chain, mood, noise: as in the module's formula."""

    users: int = 500
    items: int = 400
    events: int = 30
    seed: int = 0
    chain: float = 0.55
    mood: float = 0.35
    noise: float = 0.03

    def __post_init__(self) -> None:
        if self.users < 1 or self.events < 3:
            raise DataError(f"synthetic data needs users >= 1 and events >= 3, not {self.users} and {self.events}")
        if self.items < max(4 * self.events, 2 * len(invented.THEMES)):
            raise DataError(
                f"{self.items} items are too few: films are watched once, so take 4 times the events or more"
            )
        for name in ("chain", "mood", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must lie within 0..1, not {getattr(self, name)}")


@dataclass(frozen=True)
class World:
    """The truth (taste and series) and what was observed of it. N items, U users, Z themes."""

    sizes: Sizes
    items: tuple[Item, ...]
    theme: NDArray[np.int64]  # (N,) the theme of each film
    following: NDArray[np.int64]  # (N,) the row of the next part, -1 where there is none
    popularity: NDArray[np.float64]  # (N,) sums to 1
    within: NDArray[np.float64]  # (Z, N) w(j | z), rows sum to 1
    theta: NDArray[np.float64]  # (U, Z) true taste, rows sum to 1
    histories: tuple[Rows, ...]  # (U,) what each user watched, oldest first
    times: tuple[NDArray[np.int64], ...]

    def next_item(self, user: int, history: Rows) -> NDArray[np.float64]:
        """(N,) the true probability of each film to be the next one of this user."""
        share = self.sizes.chain
        chain = np.zeros(len(self.items))
        for row, weight in zip(history[::-1], SERIES_WEIGHTS, strict=False):
            if self.following[row] >= 0:
                chain[self.following[row]] += weight
        if (total := chain.sum()) > 0:
            chain /= total
        else:
            share = 0.0
        mood = self.sizes.mood if len(history) else 0.0
        taste = (1 - mood) * (self.theta[user] @ self.within)
        if len(history):
            taste += mood * self.within[self.theme[history[-1]]]
        noise = self.sizes.noise
        p = share * chain + (1 - share) * (noise * self.popularity + (1 - noise) * taste)
        p[history] = 0.0
        return np.asarray(p / p.sum(), dtype=np.float64)

    def scorer(self, prepared: Prepared) -> Scorer:
        """The oracle, for `evaluate` on data prepared from this world. Raises DataError for any other data."""
        if [item.item_id for item in prepared.catalogue] != [item.item_id for item in self.items]:
            raise DataError("the oracle needs the whole catalogue of its own world")
        number = {user_id: user for user, user_id in enumerate(self._user_ids())}
        if strange := [user_id for user_id in prepared.users if user_id not in number]:
            raise DataError(f"the oracle knows no user {strange[0]!r}")
        of_prepared = [number[user_id] for user_id in prepared.users]

        def scorer(users: NDArray[np.int64], histories: list[Rows]) -> Floats:
            asked = zip(users, histories, strict=True)
            return np.stack([self.next_item(of_prepared[user], history) for user, history in asked]).astype(np.float32)

        return scorer

    def _user_ids(self) -> list[str]:
        width = len(str(len(self.histories)))
        return [f"user-{user:0{width}d}" for user in range(len(self.histories))]

    def source(self) -> Source:
        """The observed part, in the form that every source gives."""
        rows, items = np.concatenate(self.histories), Numbers()
        lengths = [len(history) for history in self.histories]
        interactions = Interactions(
            user_ids=tuple(self._user_ids()),
            users=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            items=items(self.items[row].item_id for row in rows),
            item_ids=items.strings(),
            seconds=np.concatenate(self.times).astype(np.float64),
            values=np.full(len(rows), np.nan, dtype=np.float32),
            types=np.full(len(rows), UNTYPED, dtype=np.int8),
            read=len(rows),
        )
        return Source(interactions, self.items, facts={"sizes": asdict(self.sizes)})


def world_of(prepared: Prepared) -> World:
    """The world that prepared synthetic data was drawn from, made again from the sizes in its facts."""
    if "sizes" not in prepared.facts:
        raise DataError("this data is not synthetic: nobody knows the true taste of its users")
    return generate(Sizes(**prepared.facts["sizes"]))


def generate(sizes: Sizes | None = None) -> World:
    """The world of these sizes: the same sizes and seed give the same world, byte for byte."""
    sizes = sizes or Sizes()
    generator = np.random.default_rng(sizes.seed)
    items, theme, following, first = _films(sizes.items, generator)
    themes = len(invented.THEMES)
    weight = generator.permutation(1.0 / np.arange(3, sizes.items + 3) ** 0.8) * np.where(first, 1.0, 0.3)
    within = np.where(theme == np.arange(themes)[:, None], weight, 0.0)
    within /= within.sum(axis=1, keepdims=True)
    theta = np.zeros((sizes.users, themes))
    for user in range(sizes.users):
        liked = generator.choice(themes, size=int(generator.integers(2, 4)), replace=False)
        theta[user, liked] = generator.dirichlet(np.full(len(liked), 2.0))
    drawn = _Drawn(sizes, theme, following, weight / weight.sum(), within, theta, generator)
    histories, times = [], []
    for user in range(sizes.users):
        length = int(np.clip(generator.poisson(sizes.events), 3, sizes.items // 2))
        histories.append(drawn.history(user, length))
        times.append(_moments(length, generator))
    return World(
        sizes=sizes,
        items=items,
        theme=theme,
        following=following,
        popularity=weight / weight.sum(),
        within=within,
        theta=theta,
        histories=tuple(histories),
        times=tuple(times),
    )


class _Drawn:
    """Draws histories from the formula without writing out (N,) probabilities: a component, then a film; if the
    film was seen, everything again. Rejection gives exactly the masked and renormalised distribution."""

    def __init__(
        self,
        sizes: Sizes,
        theme: NDArray[np.int64],
        following: NDArray[np.int64],
        popularity: NDArray[np.float64],
        within: NDArray[np.float64],
        theta: NDArray[np.float64],
        generator: np.random.Generator,
    ) -> None:
        self.sizes, self.theme, self.following, self.generator = sizes, theme, following, generator
        self.popular = np.cumsum(popularity)
        self.rows = [np.flatnonzero(line) for line in within]
        self.inside = [np.cumsum(line[rows]) for line, rows in zip(within, self.rows, strict=True)]
        self.taste = np.cumsum(theta, axis=1)

    def history(self, user: int, length: int) -> Rows:
        history: list[int] = []
        seen: set[int] = set()
        while len(history) < length:
            row = self._draw(user, history)
            if row not in seen:
                seen.add(row)
                history.append(row)
        return np.array(history, dtype=np.int64)

    def _draw(self, user: int, history: Sequence[int]) -> int:
        sizes = self.sizes
        recent = zip(history[: -len(SERIES_WEIGHTS) - 1 : -1], SERIES_WEIGHTS, strict=False)
        parts = [(int(self.following[row]), weight) for row, weight in recent if self.following[row] >= 0]
        if parts and self.generator.random() < sizes.chain:
            return parts[self._pick(np.cumsum([weight for _, weight in parts]))][0]
        if self.generator.random() < sizes.noise:
            return self._pick(self.popular)
        if history and self.generator.random() < sizes.mood:
            theme = int(self.theme[history[-1]])
        else:
            theme = self._pick(self.taste[user])
        return int(self.rows[theme][self._pick(self.inside[theme])])

    def _pick(self, cumulated: NDArray[np.float64]) -> int:
        return int(np.searchsorted(cumulated, self.generator.random() * cumulated[-1], side="right"))


def _films(
    count: int, generator: np.random.Generator
) -> tuple[tuple[Item, ...], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Films in random row order (so that a row tells nothing), with theme, next part and whether it is a first part."""
    themes = len(invented.THEMES)
    sizes = np.full(themes, count // themes) + (np.arange(themes) < count % themes)
    planned: list[tuple[int, int]] = []  # theme and number of parts of each series
    for theme, left in enumerate(sizes.tolist()):
        while left:
            parts = min(int(generator.choice(PARTS_OF_A_SERIES)), left)
            planned.append((theme, parts))
            left -= parts
    writer = invented.Writer(generator)
    row_of = generator.permutation(count)
    items: dict[int, Item] = {}
    theme_of, following, first = np.empty(count, np.int64), np.full(count, -1, np.int64), np.zeros(count, np.bool_)
    place = 0
    for theme, parts in planned:
        rows = row_of[place : place + parts]
        place += parts
        for row, (title, text) in zip(rows, writer.series(theme, parts), strict=True):
            items[row] = Item(f"f{row:0{len(str(count - 1))}d}", title, invented.THEMES[theme].categories, text)
        theme_of[rows], first[rows[0]], following[rows[:-1]] = theme, True, rows[1:]
    return tuple(items[row] for row in range(count)), theme_of, following, first


def _moments(length: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rising unix times: evenings of one film or a few, at moments of the year of this user's own."""
    evenings = np.sort(generator.integers(0, YEAR, size=length))
    return START + evenings + np.arange(length) * 5400
