"""What the OpenAPI document says of every route alike: the keys it takes, and how it refuses before it looks.

Routes declare their own answers; this adds those that middleware gives, read from `service.access`.

    app.openapi = lambda: describe(app)
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from service.access import ROUTES, Door
from service.errors import STATUS, ErrorCode
from service.keys import Scope

_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Needed once keys are set."},
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, the other way to send it."},
}
_REFUSAL: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}


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
        answer = operation["responses"].setdefault(str(STATUS[code]), {"description": "", "content": _REFUSAL})
        if f"`{code}`" not in answer["description"]:
            answer["description"] = ", ".join(filter(None, [answer["description"], f"`{code}`"]))
