"""Plots as inline SVG: lines and bars that follow the page's light or dark colours and say in words what they show.

It knows numbers and labels, nothing of what they mean. Colours are CSS variables (--ink, --soft, --line, --a .. --d)
that the page sets. Every text is escaped here.

    lines({"training": [(1, 6.2), (2, 5.9)]}, title="Loss", across="epoch", summary="It falls from 6.2 to 5.9.")
    bars([("3 to 5", 0.21, "120 users")], title="NDCG@10 by history", across="items in the history", summary="...")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 44
LABEL = 90  # about the width of a mark's label
COLOURS = ("--a", "--b", "--c", "--d")
DASHES = ("", "6 3", "2 3", "9 3 2 3")  # told apart without colour


def lines(
    series: Mapping[str, Points],
    *,
    title: str,
    across: str,
    summary: str,
    mark: tuple[float, str] | None = None,
) -> str:
    """One line a series over a common axis. mark: an x to draw a rule at, and its label."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    whole = 1.0 if all(x == int(x) for x in xs) and max(xs) > 1 else 0.0
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6, whole), ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [_grid(y, at(x_low, y)[1]) for y in y_ticks]
    for x in x_ticks:
        if x_low <= x <= x_high:
            parts.append(_text(at(x, y_low)[0], HEIGHT - BOTTOM + 18, _number(x), "middle"))
    if mark is not None:
        x = at(mark[0], y_low)[0]
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="var(--soft)" stroke-dasharray="3 3"/>')
        side = -1 if x > WIDTH * 0.7 else 1
        beside = [y for here, y in (at(*point) for point in points) if 0 <= side * (here - x) <= LABEL]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        above = not beside or min(beside) + max(beside) > 2 * middle  # the half that the lines leave free
        y = TOP + 10 if above else HEIGHT - BOTTOM - 6
        parts.append(_text(x + 5 * side, y, mark[1], "start" if side > 0 else "end"))
    for number, line in enumerate(series.values()):
        places = [at(x, y) for x, y in line]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        parts.append(
            f'<path d="{path}" fill="none" stroke="var({colour})" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        if len(places) <= 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="var({colour})"/>' for x, y in places]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across, "middle"))
    return _figure(title, summary, "".join(parts), _legend(list(series)) if len(series) > 1 else "")


def bars(
    rows: Sequence[tuple[str, float | None, str]], *, title: str, across: str, summary: str, rule: float | None = None
) -> str:
    """One upright bar a row: label, value (None: nothing to show) and a note under the label. rule: the mean."""
    values = [value for _, value, _ in rows if value is not None]
    if not values:
        return ""
    y_ticks = ticks(0.0, max(*values, rule or 0.0, 1e-12), 4)
    high = y_ticks[-1]
    floor = HEIGHT - BOTTOM - 8
    parts = [_grid(y, floor - y / high * (floor - TOP)) for y in y_ticks]
    step = (WIDTH - LEFT - RIGHT) / len(rows)
    for number, (label, value, note) in enumerate(rows):
        middle = LEFT + (number + 0.5) * step
        if value is None:
            parts.append(_text(middle, floor - 6, "–", "middle"))
        else:
            top = floor - value / high * (floor - TOP)
            width = min(46.0, step * 0.62)
            parts.append(
                f'<rect x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{floor - top:.1f}" '
                'rx="2" fill="var(--a)"/>'
            )
            parts.append(_text(middle, max(top - 4, TOP + 8), _short(value), "middle", "ink"))
        parts.append(_text(middle, floor + 15, label, "middle"))
        parts.append(_text(middle, floor + 28, note, "middle", "soft", small=True))
    if rule is not None:
        y = floor - rule / high * (floor - TOP)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--b)" stroke-dasharray="6 3"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, across, "middle"))
    return _figure(title, summary, "".join(parts), "")


def shares(rows: Sequence[tuple[str, float, str]], *, title: str, summary: str) -> str:
    """One lying bar a row, as long as its value: label, value, and what is written behind it."""
    top = max((value for _, value, _ in rows), default=0.0)
    if top <= 0:
        return ""
    parts, height = [], 26
    for number, (label, value, note) in enumerate(rows):
        y = 6 + number * height
        length = max(1.5, value / top * (WIDTH - 250))
        parts.append(_text(104, y + 14, label, "end", "ink"))
        parts.append(f'<rect x="112" y="{y + 2}" width="{length:.1f}" height="16" rx="2" fill="var(--a)"/>')
        parts.append(_text(112 + length + 7, y + 14, note, "start"))
    return _figure(title, summary, "".join(parts), "", height=12 + height * len(rows))


def ticks(low: float, high: float, wanted: int, at_least: float = 0.0) -> list[float]:
    """Round numbers, evenly spaced, from at most low to at least high. at_least: the smallest step."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all one value, give or take the last bit
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(at_least, next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _figure(title: str, summary: str, inner: str, legend: str, height: int = HEIGHT) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{title}. {summary}")}">{inner}</svg>'
        f"<p>{escape(summary)}</p></figure>"
    )


def _legend(names: Sequence[str]) -> str:
    keys = []
    for number, name in enumerate(names):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        line = f'<path d="M0 5H26" stroke="var({colour})" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        keys.append(f'<span><svg width="26" height="10" aria-hidden="true">{line}</svg> {escape(name)}</span>')
    return f'<div class="legend">{"".join(keys)}</div>'


def _grid(value: float, y: float) -> str:
    rule = f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--line)"/>'
    return rule + _text(LEFT - 7, y + 4, _number(value), "end")


def _text(x: float, y: float, text: str, anchor: str, colour: str = "soft", *, small: bool = False) -> str:
    size = ' font-size="10"' if small else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--{colour})"{size}>{escape(str(text))}</text>'
    )


def _number(value: float) -> str:
    return f"{value:.6g}"


def _short(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if 0 < value < 1 else f"{value:.3g}"
