"""docs/quality/table.md from the cells: tables a set, with intervals against their references, and a plot.

Knows no model: whatever cells lie in results/ appear, under the heading and in the order that the registry gives them.
What `bench.quality.short` and `samplers` kept beside the cells follows.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from xml.sax.saxutils import escape

import numpy as np

from bench.quality.cells import RESULTS, Cell, compare
from bench.quality.models import MODELS
from bench.quality.sets import SETS

FOLDER = Path("docs/quality")
REFERENCES = ("sasrec-ce", "sasrec-ce-unseen", "id-text-transition-ensemble", "id-text-transition-ensemble-unseen")
PARTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "parts of contrec": (
            "What each part is worth",
            "ContRec with parts left out, or its mixture asked otherwise; the last column is against the trunk alone, "
            "over the seeds that both have.",
        ),
        "ablations": (
            "What denoising is worth",
            "A frozen trunk, its head trained otherwise; without sigma the trunk is trained anew, and DeftRec's rows "
            "have its own, which the last columns are against. Every row is a mixture at half weight, but for plain "
            "diffusion, which is one sample.",
        ),
        "guards": (
            "What each guard is worth",
            "The trunk alone, trained anew over a tokenizer, or by a softmax, that lacks one thing.",
        ),
    }
)
"""Groups of rows that stand apart, against the trunk alone: their heading, and what they have in common."""
ALONE, DEFTREC_ALONE = "contrec-trunk-only", "deftrec-without-transitions"
_HEAD = (
    *("model", "seeds", "HR@10", "NDCG@10", "unmasked HR@10", "unmasked NDCG@10", "parameters", "seconds"),
    *("ms: history, list", "commit"),
)


def write_page(cells: Sequence[Cell], folder: Path = FOLDER, cells_folder: Path = RESULTS) -> None:
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
        parts.append(f"## {SETS[name].title}\n\n![NDCG@10 of every model]({name}.svg)\n")
        parts.extend(tables(models))
        parts.extend(beside(cells_folder / name))
        (folder / f"{name}.svg").write_text(plot(models, SETS[name].title), encoding="utf-8")
    (folder / "table.md").write_text("\n".join(parts), encoding="utf-8")


_INTRODUCTION = """\
Made by `make bench-quality` (`python -m bench.quality run`, then `page`) from the cells in `bench/quality/results/`,
one JSON file a model, set and seed. Full catalogue, item level, leave-one-out, items of the history masked (unmasked
beside it), ties against the scorer; every choice was made on validation. Means over the seeds that are there; ± is
their standard deviation. The differences are of test NDCG@10, in percent of the reference, with a 95 % bootstrap
interval over users. Seconds are of one or two threads by the clock, on shared machines of several kinds that paused
some runs for other measurements: an upper bound. Milliseconds are of one user, without HTTP and store: reading a
history, which a cache spares who comes back, and making a list from what was read (`bench/quality/speed.py`). The
commit is that of the code that fitted a row, or *older*, than the record of it.
"""


def tables(models: dict[str, list[Cell]]) -> list[str]:
    """The table of all that stand for themselves, then one for each group of `PARTS`."""
    group = {model: MODELS[model].group if model in MODELS else "" for model in models}
    parts = [table({m: cells for m, cells in models.items() if group[m] not in PARTS}, models, REFERENCES)]
    for name, (title, common) in PARTS.items():
        rows = {m: cells for m, cells in models.items() if group[m] == name}
        if rows:
            trunks = sorted({_trunk(model) for model in rows} & set(models))
            first = {trunk: models[trunk] for trunk in trunks}
            parts.append(f"### {title}\n\n{common}\n\n{table(first | rows, models, trunks)}")
            parts.extend(_surely(rows, models, name))
    parts.extend(_at_the_edge(models))
    return [part + "\n" for part in parts]


def _trunk(model: str) -> str:
    """The row that has the same trunk and nothing else."""
    return DEFTREC_ALONE if model.startswith("deftrec") else ALONE


def _at_the_edge(models: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Names the rows of which a weight could not be chosen any greater: they may be worth more than they show."""
    found = [model for model, cells in models.items() if any(map(at_the_edge, cells))]
    if not found:
        return []
    return [f"A weight at the edge of what was tried, so that a greater one may be better: {', '.join(found)}."]


def at_the_edge(cell: Cell) -> bool:
    """Whether a weight that validation chose is the greatest of several that were tried."""
    return any(len(tried) > 1 and weight == max(map(float, tried)) for weight, tried in _choices(cell))


def _choices(cell: Cell) -> Iterator[tuple[float, Mapping[str, float]]]:
    """The weights of experts that validation chose for a cell, and what each that was tried reached."""
    own = cell.configuration
    if "weight" in own:  # an ensemble
        yield own["weight"], own["tried"]
        if "transitions" in own:
            yield own["transitions"]["weight"], own["transitions"]["tried"]
    elif "transitions" in own and "tried" in own:
        yield own["transitions"], own["tried"]
    for weight, note in (("alpha", "text_half_fit"), ("transitions", "transitions_fit")):
        if note in cell.notes:
            yield own[weight], cell.notes[note]["tried"]


def _surely(rows: dict[str, list[Cell]], models: dict[str, list[Cell]], group: str) -> list[str]:
    """The sentence that a reader looks for, where cells can say it."""
    denoise = [model for model in rows if "mixture" in model or "sample" in model or "diffusion" in model]
    mixed = [model for model in denoise if _trunk(model) in models]
    if group == "guards" or not mixed:
        return []
    ahead = [model for model in mixed if compare(*of_same_seeds(rows[model], models[_trunk(model)]))[1] > 0]
    found = ", ".join(ahead) if ahead else "none"
    return [f"Of those that denoise, surely above the trunk alone (an interval over users, not over seeds): {found}."]


def table(models: dict[str, list[Cell]], everything: dict[str, list[Cell]], references: Sequence[str]) -> str:
    """A Markdown table, one line a model; differences are against those references that are in `everything`."""
    known = [name for name in references if name in everything]
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
            _milliseconds(cells),
            ", ".join(sorted({cell.commit or "older" for cell in cells})),
        ]
        for name in known:
            both = cells, everything[name]
            if name in (ALONE, DEFTREC_ALONE):  # parts of a bundle are compared within it
                both = of_same_seeds(*both)
            line.append("" if name == model else _against(*both))
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _mean(cells: Sequence[Cell], metric: str) -> float:
    return float(np.mean([cell.metrics[metric] for cell in cells]))


def _milliseconds(cells: Sequence[Cell]) -> str:
    known = [cell.milliseconds for cell in cells if cell.milliseconds]
    return ", ".join(f"{np.mean([one[part] for one in known]):.1f}" for part in ("history", "list")) if known else ""


def beside(folder: Path) -> list[str]:
    """What else was measured on a set: histories cut short, and samplers at any cost."""
    parts = []
    if (folder / "short.json").exists():
        found = json.loads((folder / "short.json").read_text(encoding="utf-8"))
        names = list(found["rows"][0]["ndcg@10"])
        lines = [f"| last events told | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in found["rows"]:
            lines.append(f"| {row['events']} | " + " | ".join(f"{row['ndcg@10'][name]:.4f}" for name in names) + " |")
        parts.append(
            f"### Who is hardly known\n\nTest NDCG@10 where only the last few events of everybody are told "
            f"(`{found['command']}`, commit {found['commit']}):\n\n" + "\n".join(lines) + "\n"
        )
    if (folder / "samplers.json").exists():
        found = json.loads((folder / "samplers.json").read_text(encoding="utf-8"))
        tried = sorted(found["tried"], key=lambda one: -one["ndcg@10"])
        lines = ["| lambda | samples | times | guidance | validation NDCG@10 |", "|---|---|---|---|---|"]
        for one in tried:
            times = ", ".join(f"{time:g}" for time in one.get("times", []))
            what = (f"{one['lambda']:g}", str(one.get("samples", "")), times, f"{one.get('guidance', '')}")
            lines.append("| " + " | ".join([*what, f"{one['ndcg@10']:.4f}"]) + " |")
        served, best = found["served"], found["best"]
        ratio = served["test ndcg@10"] / best["test ndcg@10"]
        parts.append(
            f"### Samplers at any cost\n\nOf {len(tried)} ways to ask the head (`{found['command']}`, commit "
            f"{found['commit']}), test NDCG@10 of what is served is {served['test ndcg@10']:.4f} at "
            f"{served['milliseconds']['list']:.1f} ms a list, of the best on validation {best['test ndcg@10']:.4f} at "
            f"{best['milliseconds']['list']:.1f} ms: {100 * ratio:.1f} % of it.\n\n" + "\n".join(lines) + "\n"
        )
    return parts


def of_same_seeds(mine: list[Cell], theirs: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Those of the seeds that both have; all where they have none in common."""
    common = {cell.seed for cell in mine} & {cell.seed for cell in theirs}
    if not common:
        return mine, theirs
    return [cell for cell in mine if cell.seed in common], [cell for cell in theirs if cell.seed in common]


def _against(cells: Sequence[Cell], reference: Sequence[Cell]) -> str:
    base = _mean(reference, "ndcg@10")
    mean, low, high = (100 * value / base for value in compare(cells, reference))
    return f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def plot(models: dict[str, list[Cell]], title: str) -> str:
    """NDCG@10 as horizontal bars, a dot for each seed. Plain SVG that follows the reader's colour scheme."""
    rows = sorted(models.items(), key=lambda pair: -_mean(pair[1], "ndcg@10"))
    top = max(cell.metrics["ndcg@10"] for cells in models.values() for cell in cells) or 1.0
    left, width, line = 16 + 7 * max(map(len, models)), 430, 24  # a letter is about 7 wide at 13 pixels
    height = 48 + line * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 80} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" aria-label="NDCG@10 on {escape(title)}">',
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
