"""/docs: the operations, made from the OpenAPI document, on one page that needs nothing from the internet."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.middleware.safe_headers import PAGE_POLICY

router = APIRouter(include_in_schema=False)

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 14px }
pre { background: #8881; padding: .6rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid #8884; padding: .3rem; vertical-align: top }
:root { color-scheme: light dark }
"""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>contrec API</title><style>{style}</style></head><body><h1>contrec API</h1>
<p>The same for machines: <a href="/openapi.json">/openapi.json</a>.</p>
{operations}</body></html>"""

# The one style that stands in a page is named by its hash; every other would be somebody else's.
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = PAGE_POLICY.replace("style-src 'self'", f"style-src 'sha256-{_HASH}'")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    schema = request.app.openapi()
    operations = [
        _operation(method, path, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    page = _PAGE.format(style=_STYLE, operations="\n".join(operations))
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})


def _operation(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    parts = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    summary, description = escape(operation.get("summary", "")), escape(operation.get("description", ""))
    parts.append(f"<p><b>{summary}</b> {description}</p>")
    if "requestBody" in operation:
        body = _resolve(operation["requestBody"]["content"]["application/json"]["schema"], schema)
        parts.append(_fields(body, schema))
        parts += [_curl(method, path, example) for example in _examples(body, operation)]
    answers = ", ".join(
        f"<code>{escape(status)}</code> {escape(answer['description'])}"
        for status, answer in sorted(operation["responses"].items())
    )
    parts.append(f"<p>Answers: {answers}</p>")
    answered = _resolve(operation["responses"]["200"]["content"]["application/json"]["schema"], schema)
    parts.append(f"<pre>{escape(json.dumps(answered['examples'][0]))}</pre>")
    return "\n".join(parts)


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref")
    if reference is None:
        return part
    found: dict[str, Any] = schema["components"]["schemas"][reference.rsplit("/", 1)[1]]
    return found


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> str:
    alternatives = [_resolve(part, schema) for part in body.get("oneOf", body.get("anyOf", [body]))]
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td>{'required' if name in one.get('required', []) else 'optional'}"
        f"</td><td>{escape(field.get('description', ''))}</td></tr>"
        for one in alternatives
        for name, field in one.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _examples(body: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    content = operation["requestBody"]["content"]["application/json"]
    examples: list[Any] = content["schema"].get("examples") or body.get("examples") or []
    return examples


def _curl(method: str, path: str, example: Any) -> str:
    line = (
        f"curl -X {method.upper()} localhost:8000{path} -H 'Content-Type: application/json' -d '{json.dumps(example)}'"
    )
    return f"<pre>{escape(line)}</pre>"
