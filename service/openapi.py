"""What the OpenAPI document says of every route alike: the keys it takes, and how it refuses before it looks.

Routes declare their own answers, models their examples; this adds the refusals that middleware gives, read from
`service.access`, an example of each refusal, and when to come again.

    app.openapi = lambda: describe(app)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI

from service.access import ROUTES, Door
from service.errors import STATUS, ErrorCode
from service.keys import Scope

_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Needed once keys are set."},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, the other way to send it."},
}
_REFUSAL: Final = {"schema": {"$ref": "#/components/schemas/ErrorBody"}}

_AGAIN: Final = frozenset({"429", "503"})
_RETRY_AFTER: Final = {
    "description": "Seconds to wait before asking again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
    "example": 1,
}

_SAYS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.MALFORMED_JSON: "the body is not JSON",
    ErrorCode.MALFORMED_HTTP: "what came is not HTTP/1.1",
    ErrorCode.UNAUTHORIZED: "an API key is needed: X-API-Key, or Authorization: Bearer",
    ErrorCode.FORBIDDEN: "this API key lacks the scope admin",
    ErrorCode.NOT_FOUND: "no such item, or it was withdrawn",
    ErrorCode.METHOD_NOT_ALLOWED: "this route does not know that method",
    ErrorCode.REQUEST_TIMEOUT: "the body did not arrive in time",
    ErrorCode.BUNDLE_REFUSED: "bundle 'contrec' has no version to roll back to",
    ErrorCode.BODY_TOO_LARGE: "the body is larger than 1048576 bytes",
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "the body must be sent as Content-Type: application/json",
    ErrorCode.MISDIRECTED_REQUEST: "this service does not answer to that Host (CONTREC_ALLOWED_HOSTS)",
    ErrorCode.INVALID_REQUEST: "k: input should be less than or equal to 200",
    ErrorCode.OVERLOADED: "128 requests wait already",
    ErrorCode.RATE_LIMITED: "more than 10 requests a second; wait the seconds of Retry-After",
    ErrorCode.HEADERS_TOO_LARGE: "the request line and headers are too long",
    ErrorCode.INTERNAL: "something unexpected happened; the log has it under the request's id",
    ErrorCode.STORE_UNAVAILABLE: "the store does not answer, ask again",
    ErrorCode.MODEL_UNAVAILABLE: "the model did not answer",
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for template, methods in document["paths"].items():
            for method, operation in methods.items():
                _describe(operation, ROUTES[template][method.upper()])
        app.openapi_schema = document
    return app.openapi_schema


def _describe(operation: dict[str, Any], needed: Scope | Door) -> None:
    codes = [ErrorCode.MISDIRECTED_REQUEST, ErrorCode.HEADERS_TOO_LARGE]
    if needed is not Door.PROBE:
        codes.append(ErrorCode.RATE_LIMITED)
    if isinstance(needed, Scope):
        codes += [ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN]
        operation["security"] = [{"ApiKey": []}, {"Bearer": []}]
        operation["x-scope"] = needed
    if "requestBody" in operation:
        codes.append(ErrorCode.REQUEST_TIMEOUT)
    for code in codes:
        fresh = {"description": "", "content": {"application/json": dict(_REFUSAL)}}
        answer = operation["responses"].setdefault(str(STATUS[code]), fresh)
        if f"`{code}`" not in answer["description"]:
            answer["description"] = ", ".join(filter(None, [answer["description"], f"`{code}`"]))
    for status, answer in operation["responses"].items():
        if status in _AGAIN:
            answer["headers"] = {"Retry-After": _RETRY_AFTER}
        content = answer.get("content", {}).get("application/json", {})
        if content.get("schema") == _REFUSAL["schema"]:
            content["examples"] = {code: _example(code) for code in re.findall(r"`([a-z_]+)`", answer["description"])}


def _example(code: str) -> dict[str, Any]:
    error = {"code": code, "message": _SAYS[ErrorCode(code)]}
    if code == ErrorCode.INVALID_REQUEST:
        error["field"] = "k"
    return {"value": {"error": error}}
