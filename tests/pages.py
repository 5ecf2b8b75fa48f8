"""The commands of a page of docs: what stands in its fences."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def scripts(page: str, language: str = "sh") -> list[str]:
    """The fences of a page of docs in this language, in their order, as they stand."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def lines(script: str) -> list[str]:
    """The commands of a fence, without comments, continued lines joined."""
    joined = script.replace("\\\n", " ").splitlines()
    return [bare for line in joined if (bare := re.sub(r"(^|\s)#.*$", "", line).strip())]
