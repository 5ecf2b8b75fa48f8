"""Runs one line of `make nightly` and leaves a record of it beside the soak's.

    python -m bench.serving.nightly chaos pytest tests/chaos     # bench/serving/results/nightly-chaos.json

The line is any command that runs pytest once; its output and its exit code are its own. The record says which commit,
when and on what machine, how many tests passed, failed and were skipped, the seconds and, where tests note how many
hostile requests they sent (the property `fuzz_cases`), the sum. Knows no test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.serving.machine import machine

RESULTS = Path(__file__).parent / "results"


def counted(report: Path) -> dict[str, int]:
    """Of pytest's JUnit file; nothing ran where there is none."""
    if not report.exists():
        return dict.fromkeys(("passed", "failed", "skipped"), 0)
    root = ElementTree.parse(report).getroot()
    suites = root.findall("testsuite")
    tests, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    found = {"passed": tests - failed - errors - skipped, "failed": failed + errors, "skipped": skipped}
    sent = [int(noted.get("value", 0)) for noted in root.iter("property") if noted.get("name") == "fuzz_cases"]
    return found | ({"fuzz_cases": sum(sent)} if sent else {})


def record(command: list[str]) -> dict[str, Any]:
    """Runs the command and says what came of it."""
    with tempfile.TemporaryDirectory(prefix="contrec-nightly-") as folder:
        report = Path(folder) / "report.xml"
        # The other family refuses what a test records of itself (record_property).
        asked = f"{os.environ.get('PYTEST_ADDOPTS', '')} -o junit_family=xunit1 --junitxml={report}"
        found: dict[str, Any] = {"machine": machine(), "command": " ".join(command)}
        started = time.monotonic()
        done = subprocess.run(command, env={**os.environ, "PYTEST_ADDOPTS": asked.strip()}, check=False)
        found |= {"seconds": round(time.monotonic() - started, 3), "exit_code": done.returncode, **counted(report)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the records")
    parser.add_argument("name", help="of the record: nightly-NAME.json")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the line")
    given = parser.parse_args()
    if not given.command:
        parser.error("the command is missing")
    found = record(given.command)
    (given.results / f"nightly-{given.name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(found["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
