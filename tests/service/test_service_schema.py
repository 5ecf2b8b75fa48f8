"""The OpenAPI document and the service agree, on a real process: what it allows is taken, what it forbids is refused,
and every answer is of a status and shape that it names. Of what only the page asks, which no document promises, what is
allowed is taken and what is forbidden is refused. Requests are schemathesis', ours are in test_service_fuzz.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.access import ROUTES
from service.keys import Scope, key_line, new_key
from tests.service.fuzz import CASES, SENT, hidden
from tests.service.test_service_fuzz import fault_of
from tests.service.test_service_process import process
from tests.service.test_service_recommend import publish

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of schemathesis' own parts

KEY = new_key()
PLACES = [
    (method, template)
    for template, methods in ROUTES.items()
    for method in methods
    if not template.startswith(("/docs", "/openapi", "/ui")) and template != "/"
]
EACH = max(5, CASES // 3 // (2 * len(PLACES)))  # beside the whole number that test_service_fuzz.py sends


CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass
class Api:
    """A running service, its document as schemathesis reads it, and what came back so far."""

    operations: dict[tuple[str, str], APIOperation[Any, Any, Any, Any]]
    session: requests.Session
    address: str
    statuses: Counter[int] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("schema")
    publish(folder / "bundles")
    keys = key_line("all", Scope, KEY)
    with process(folder, keys=keys, log_level="warning") as (server, client), requests.Session() as session:
        session.trust_env = False
        document = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        documents = document, schemathesis.openapi.from_dict(hidden())
        operations = [result.ok() for one in documents for result in one.get_all_operations()]
        yield Api({(one.method.upper(), one.path): one for one in operations}, session, str(client.base_url))
        server.terminate()
        output, _ = server.communicate(timeout=20)
    assert "a request failed" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "template"), PLACES)
def test_what_the_document_says_is_so(
    api: Api, method: str, template: str, mode: GenerationMode, record_property: Callable[[str, object], None]
) -> None:
    operation = api.operations.get((method, template))
    if operation is None:
        pytest.skip("the table foresees it, the router does not have it yet")

    @seed(2026)
    @settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        answer = case.call(base_url=api.address, session=api.session, headers={"X-API-Key": KEY}, timeout=20)
        api.statuses[answer.status_code] += 1
        told = f"{case.as_curl_command()[:500]} -> {answer.status_code} {answer.text[:300]}"
        checks = CHECKS[-1:] if template.startswith("/page") else CHECKS
        if answer.status_code == 431:  # too long to be looked at is a refusal as well
            checks = [check for check in checks if check is not negative_data_rejection]
        case.validate_response(answer, checks=checks, headers={"X-API-Key": KEY})
        headers = {name: values[0] for name, values in answer.headers.items()}
        assert fault_of(method, answer.status_code, headers, answer.content) is None, told
        by_the_clock = "in the future" in answer.text  # no schema can say that of a time
        if mode is GenerationMode.POSITIVE and not _whole_float(case.body) and not by_the_clock:
            assert answer.status_code != 422, told

    before = api.statuses.total()
    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a route that takes nothing has nothing to get wrong
    record_property(SENT, api.statuses.total() - before)


def _whole_float(body: Any) -> bool:
    """10.0 is an integer to JSON Schema, and none to us: a k that was computed is a slip."""
    if isinstance(body, dict | list):
        return any(_whole_float(part) for part in (body.values() if isinstance(body, dict) else body))
    return isinstance(body, float) and body.is_integer()
