"""docs/quality/table.md from the cells: one table a set, with intervals against the two references, and a plot.

Knows no model: whatever cells lie in results/ appear, in the order of the registry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from bench.quality.cells import Cell, compare
from bench.quality.models import MODELS
from bench.quality.sets import SETS

FOLDER = Path("docs/quality")
REFERENCES = ("sasrec-ce", "id-text-ensemble", "id-text-transition-ensemble")
_HEAD = ("model", "seeds", "HR@10", "NDCG@10", "unmasked HR@10", "unmasked NDCG@10", "parameters", "seconds", "commit")


def write_page(cells: Sequence[Cell], folder: Path = FOLDER) -> None:
    """Writes table.md and one SVG for each set that has cells."""
    folder.mkdir(parents=True, exist_ok=True)
    by_set: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        by_set[cell.dataset][cell.model].append(cell)
    parts = ["# The table\n", _INTRODUCTION]
    for name in SETS:
        if name not in by_set:
            continue
        models = {model: by_set[name][model] for model in [*MODELS, *sorted(by_set[name])] if model in by_set[name]}
        parts.append(f"## {SETS[name].title}\n\n![NDCG@10 of every model]({name}.svg)\n\n{table(models)}\n")
        (folder / f"{name}.svg").write_text(plot(models, SETS[name].title), encoding="utf-8")
    (folder / "table.md").write_text("\n".join(parts), encoding="utf-8")


_INTRODUCTION = """\
Made by `make bench-quality` (`python -m bench.quality run`, then `page`) from the cells in `bench/quality/results/`,
one JSON file a model, set and seed. Full catalogue, item level, leave-one-out, items of the history masked (unmasked
beside it), ties against the scorer; every choice was made on validation. Means over the seeds that are there; ± is
their standard deviation. The differences are of test NDCG@10, in percent of the reference, with a 95 % bootstrap
interval over users. Seconds are of one thread by the clock, on a shared machine that paused some runs for other
measurements: an upper bound. The commit is that of the code that computed a row; where it is missing, the row is older
than the record of it.
"""


def table(models: dict[str, list[Cell]]) -> str:
    """A Markdown table, one line a model."""
    known = [name for name in REFERENCES if name in models]
    head = [*_HEAD, *(f"against {name}" for name in known)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model, cells in models.items():
        values = np.array([cell.metrics["ndcg@10"] for cell in cells])
        spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
        line = [
            model,
            ", ".join(str(cell.seed) for cell in cells),
            f"{_mean(cells, 'hr@10'):.4f}",
            f"{values.mean():.4f}{spread}",
            f"{np.mean([cell.metrics['unmasked']['hr@10'] for cell in cells]):.4f}",
            f"{np.mean([cell.metrics['unmasked']['ndcg@10'] for cell in cells]):.4f}",
            f"{cells[0].parameters:,}",
            f"{np.mean([cell.seconds for cell in cells]):,.0f}",
            ", ".join(sorted({cell.commit for cell in cells if cell.commit})),
        ]
        for name in known:
            line.append("" if name == model else _against(cells, models[name]))
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _mean(cells: Sequence[Cell], metric: str) -> float:
    return float(np.mean([cell.metrics[metric] for cell in cells]))


def _against(cells: Sequence[Cell], reference: Sequence[Cell]) -> str:
    base = _mean(reference, "ndcg@10")
    mean, low, high = (100 * value / base for value in compare(cells, reference))
    return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def plot(models: dict[str, list[Cell]], title: str) -> str:
    """NDCG@10 as horizontal bars, a dot for each seed. Plain SVG that follows the reader's colour scheme."""
    rows = sorted(models.items(), key=lambda pair: -_mean(pair[1], "ndcg@10"))
    top = max(cell.metrics["ndcg@10"] for cells in models.values() for cell in cells) or 1.0
    left, width, line = 190, 430, 24
    height = 48 + line * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {height}" font-family="system-ui, sans-serif" '
        f'font-size="13" role="img" aria-label="NDCG@10 on {escape(title)}">',
        "<style>text{fill:#222}.bar{fill:#9db4d6}.ours{fill:#2f6fd0}.dot{fill:#222}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#46597a}.ours{fill:#6aa5ff}.dot{fill:#ddd}}</style>",
        f'<text x="{left}" y="20" font-weight="600">NDCG@10, {escape(title)}</text>',
    ]
    for number, (model, cells) in enumerate(rows):
        y = 36 + line * number
        mean = _mean(cells, "ndcg@10")
        kind = "ours" if model.startswith(("contrec", "deftrec", "diffgrm")) else "bar"
        out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(model)}</text>')
        out.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{width * mean / top:.1f}" height="17" rx="2"/>')
        for cell in cells:
            x = left + width * cell.metrics["ndcg@10"] / top
            out.append(f'<circle class="dot" cx="{x:.1f}" cy="{y + 8.5}" r="2.2"/>')
        out.append(f'<text x="{left + width * mean / top + 10:.1f}" y="{y + 13}">{mean:.4f}</text>')
    return "\n".join([*out, "</svg>", ""])
