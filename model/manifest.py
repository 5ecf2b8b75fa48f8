"""The manifest of a bundle: what training says of what it publishes, with a hash of every file. Knows no folder.

manifest = Manifest.of(json.loads(text))        # ValueError where it is none
text = manifest.to_json()
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of bundles and versions
LIBRARIES = ("contrec", "torch", "transformers", "safetensors", "numpy", "faiss-cpu")


@dataclass(frozen=True, slots=True)
class File:
    """What the manifest says of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json. `files` holds every file of the bundle but the manifest, by its path inside."""

    name: str
    version: str
    kind: str
    recipe: str
    recipe_config: dict[str, Any]
    data_fingerprint: str
    metrics: dict[str, Any]  # as training.evaluate gives them, by part
    files: dict[str, File]
    libraries: dict[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def of(cls, record: Any) -> Manifest:
        """From its JSON. Raises ValueError with the second half of a sentence."""
        if not isinstance(record, dict) or "format" not in record:
            raise ValueError("is not a bundle's manifest: it names no format")
        if record["format"] != FORMAT:
            raise ValueError(f"has format {record['format']!r}; this version of contrec reads format {FORMAT}")
        shapes: dict[str, type] = dict.fromkeys(("recipe_config", "metrics", "files", "libraries"), dict)
        shapes |= dict.fromkeys(("name", "version", "kind", "recipe", "data_fingerprint", "created"), str)
        for key, shape in shapes.items():
            if not isinstance(record.get(key), shape):
                raise ValueError(f"has no usable field {key!r}")
        for key in ("name", "version"):
            if not NAME.fullmatch(record[key]):
                raise ValueError(f"has the unusable {key} {record[key]!r}")
        files = {}
        for path, file in record["files"].items():
            if not _inside(path):
                raise ValueError(f"names the file {path!r}, which is no path inside a bundle")
            if not (isinstance(file, dict) and isinstance(file.get("sha256"), str) and type(file.get("bytes")) is int):
                raise ValueError(f"has no sha256 and size for the file {path!r}")
            files[path] = File(sha256=file["sha256"], bytes=file["bytes"])
        return cls(
            **{key: record[key] for key in shapes if key != "files"},
            files=files,
            format=FORMAT,
        )


def _inside(path: str) -> bool:
    """Whether a manifest may name this path: relative, plain, and below the bundle's folder."""
    pure = PurePosixPath(path)
    plain = pure.as_posix() == path and "\\" not in path and "\0" not in path
    return plain and not pure.is_absolute() and ".." not in pure.parts and path not in (".", MANIFEST)


def libraries() -> dict[str, str]:
    """Versions of the libraries that a result depends on, without the local part that names a build."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found
