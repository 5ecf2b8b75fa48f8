"""python -m bench.quality tune | run | page. See the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.quality import ablations, cells, graph, neural, page, plain, semantic, tuning
from bench.quality.models import MODELS, Ask
from bench.quality.sets import SETS, load
from bench.quality.speed import milliseconds

assert all((ablations, graph, neural, plain, semantic))  # importing them registers their rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compute the cells that are missing")
    run.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    run.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    run.add_argument("--seeds", default=None, help="comma-separated; default: what each model needs")
    one = commands.add_parser("cell", help="compute one cell in this process, over what is there")
    one.add_argument("set", choices=SETS)
    one.add_argument("model", choices=MODELS)
    one.add_argument("seed", type=int)
    trials = commands.add_parser("tune", help="run the short trials that are missing; before the cells")
    trials.add_argument("--sets", default="ml-1m,beauty", help="comma-separated")
    commands.add_parser("page", help="write docs/quality/ from the cells")
    given = parser.parse_args(arguments)
    if given.command == "page":
        page.write_page(cells.read_all())
        return 0
    if given.command == "tune":
        for set_name in given.sets.split(","):
            if set_name not in tuning.EPOCHS:
                sys.exit(f"there are no trials on {set_name!r}; there are on: {', '.join(tuning.EPOCHS)}")
            for model in tuning.MODELS:
                tuning.tune(set_name, model)
        return 0
    if given.command == "cell":
        return compute(given.set, given.model, given.seed)
    return run_missing(given.sets.split(","), given.models.split(","), given.seeds)


def run_missing(sets: Sequence[str], models: Sequence[str], seeds: str | None) -> int:
    """Each missing cell in a process of its own, so that one that fails, or fills memory, harms no other."""
    for name in [*(s for s in sets if s not in SETS), *(m for m in models if m not in MODELS)]:
        sys.exit(f"{name!r} is no set and no model of the table; there are: {', '.join([*SETS, *MODELS])}")
    failed = 0
    for model in models:
        for set_name in sets:
            for seed in map(int, seeds.split(",")) if seeds else range(MODELS[model].seeds):
                if (cells.RESULTS / set_name / model / f"{seed}.json").exists():
                    continue
                command = [sys.executable, "-m", "bench.quality", "cell", set_name, model, str(seed)]
                failed += subprocess.run(command, check=False).returncode != 0
    return 1 if failed else 0


def compute(set_name: str, model: str, seed: int) -> int:
    """Fits, evaluates on validation and once on test, and keeps the cell."""
    from training.evaluate import evaluate

    commit = cells.commit()  # now: a run takes an hour, and files change
    prepared = load(set_name)
    started = time.perf_counter()
    fitted = MODELS[model].fit(Ask(prepared, SETS[set_name], set_name, seed))
    seconds = time.perf_counter() - started if fitted.seconds is None else fitted.seconds
    validation = evaluate(fitted.scorer, prepared, "validation")
    test = evaluate(fitted.scorer, prepared, "test")
    cell = cells.Cell(
        dataset=set_name,
        model=model,
        seed=seed,
        metrics=test.as_dict(),
        validation=validation.ndcg(10),
        configuration=fitted.configuration,
        parameters=fitted.parameters,
        seconds=round(seconds, 1),
        command=f"python -m bench.quality cell {set_name} {model} {seed}",
        ranks=cells.marks(test),
        notes=fitted.notes,
        commit=fitted.commit or commit,
        milliseconds=milliseconds(fitted.recommender, prepared) if fitted.recommender else {},
    )
    path = cells.write(cell)
    print(f"{path}: NDCG@10 {test.ndcg(10):.4f}  HR@10 {test.hr(10):.4f}  {seconds:.0f} s", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
