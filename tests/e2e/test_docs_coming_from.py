"""docs/coming-from.md: its conversions run as they stand on what the other systems give, and prepare takes the result.
docs/README.md: every page of docs is in it, and every link leads somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import environment
from training.data.prepare import prepare

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
SCRIPTS = dict(zip(("gorse", "metarank", "rectools"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))
USERS, LENGTH = 6, 5


def gorse(folder: Path, users: int = USERS) -> None:
    """Two pages of feedback and one of items, as GET /api/feedback and GET /api/items give them."""
    feedback = [
        {
            "FeedbackType": "read", "UserId": f"u{user}", "ItemId": f"i{user + step}", "Value": 0, "Comment": "",
            "Timestamp": f"2024-05-0{step + 1}T10:00:00Z", "Updated": "2024-06-01T00:00:00Z",
        }
        for user in range(users) for step in range(LENGTH)
    ]  # fmt: skip
    pages = [{"Cursor": "next", "Feedback": feedback[:10]}, {"Cursor": "", "Feedback": feedback[10:]}]
    (folder / "feedback.jsonl").write_text("\n".join(json.dumps(page) for page in pages))
    items = [
        {"ItemId": f"i{n}", "IsHidden": False, "Categories": ["a", "b"] if n else None, "Comment": f"Title, {n}",
         "Labels": {"tags": ["x"]}, "Timestamp": "2024-01-01T00:00:00Z"}
        for n in range(users + LENGTH)
    ]  # fmt: skip
    (folder / "items.jsonl").write_text(json.dumps({"Cursor": "", "Items": items}))


def metarank(folder: Path) -> None:
    """Item, ranking and interaction events, one a line."""
    lines: list[dict[str, object]] = [
        {"event": "item", "id": f"e{n}", "timestamp": "1714550000000", "item": f"i{n}",
         "fields": [{"name": "title", "value": f"Title, {n}"}, {"name": "genres", "value": ["a", "b"]}]}
        for n in range(USERS + LENGTH)
    ]  # fmt: skip
    lines.append({"event": "ranking", "id": "r", "timestamp": "1714550000000", "user": "u0", "items": [{"id": "i0"}]})
    lines += [
        {"event": "interaction", "id": f"x{user}{step}", "ranking": "r", "timestamp": str(1714550000000 + 60000 * step),
         "user": f"u{user}", "session": "s", "type": "click", "item": f"i{user + step}"}
        for user in range(USERS) for step in range(LENGTH)
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


def rectools(folder: Path) -> None:
    """The interactions frame of a Dataset."""
    rows = [f"u{user},i{user + step},1,2024-05-0{step + 1}" for user in range(USERS) for step in range(LENGTH)]
    (folder / "rectools.csv").write_text("\n".join(["user_id,item_id,weight,datetime", *rows]) + "\n")


@pytest.mark.parametrize("make", [gorse, metarank, rectools], ids=lambda make: make.__name__)
def test_what_the_other_system_gives_becomes_tables_that_are_taken(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    name = make.__name__
    make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPTS[name]],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prepared = prepare("table", tmp_path / "my-data", tmp_path / "prepared")
    assert len(prepared.users) == USERS
    assert prepared.catalogue.ids(prepared.history(0)) == [f"i{n}" for n in range(LENGTH)]
    assert prepared.facts["cleaning"]["rows_rejected"] == 0
    if name != "rectools":
        first = prepared.catalogue[prepared.history(0)[1]]
        assert (first.title, first.categories) == ("Title, 1", ("a", "b"))


def test_the_index_leads_to_every_page(repository: Path) -> None:
    """By a link of its own, or of a page that it leads to."""
    docs = repository / "docs"
    found, ahead = set(), ["README.md"]
    while ahead:
        name = ahead.pop()
        if name not in found and (docs / name).is_file():
            found.add(name)
            text = (docs / name).read_text(encoding="utf-8")
            ahead += [Path(link).name for link in re.findall(r"\]\((?!http|\.\.)([^)#/]+\.md)", text)]
    assert {path.name for path in docs.glob("*.md")} - found == set(), "a page that nobody finds"


def test_the_index_follows_a_users_way(repository: Path) -> None:
    text = (repository / "docs" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([a-z][^|]*?) \|", text, re.MULTILINE) == [
        "when",
        "try it",
        "install it elsewhere",
        "bring your own data",
        "train",
        "serve",
        "watch",
        "tune",
        "upgrade and roll back",
        "come from gorse, metarank or RecTools",
        "outgrow one machine",
    ]
    for page in ("settings.md", "service.md#errors", "metrics.md"):
        assert f"({page})" in text.partition("Look up:")[2], page


def test_links_of_every_page_lead_somewhere(repository: Path) -> None:
    lost = []
    for page in (repository / "docs").glob("*.md"):
        for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            target = page if not link else page.parent / link
            if not target.exists():
                lost.append(f"{page.name}: {link}")
            elif anchor and target.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                if anchor not in slugs:
                    lost.append(f"{page.name}: {link}#{anchor}")
    assert lost == []
