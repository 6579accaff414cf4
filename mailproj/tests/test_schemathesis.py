"""schemathesis asks every operation without credentials, as a tenant and as staff: the schema describes each answer.

Examples of the schema, the bounds of every value (its coverage phase) and a few random requests; the application is
called in this process. What a case writes is rolled back, but for `send` and its batch, which commit in a thread of
their own.

Examples are asked by all three; of the bounds, some forty for each operation, each by one of the three in turn, for all
by all take minutes: `TEST_SCHEMATHESIS=all` does that.

Checked: no server error; status, content type, headers and body are as the schema describes them. No operation is left
out. Not checked, and why:

- `negative_data_rejection`, `missing_required_header`: unknown fields are ignored and `"5"` is taken for 5, on purpose.
- `positive_data_acceptance`: a schema cannot say that a name must be free, or a time in the future.
- `unsupported_method`, `ignored_auth`, `use_after_free` and the like: `management` and others do it by table.
- the stateful phase: the schema has no links.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.generation.meta import TestPhase
from schemathesis.pytest._test_builder import build_operation_test  # its own pytest plugin's; the version is pinned
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts import credentials
from accounts.tests.stripe_stand_in import SECRET, stripe_stand_in
from accounts.tests.zone import Zone, serving
from mailflow import runtime
from mailproj.tests import tenants
from mailproj.tests.described import described

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
RANDOM_CASES = 3
SHARES = 4  # of the operations, so that two workers have about as much to do
IS_WHOLE = os.environ.get("TEST_SCHEMATHESIS") == "all"
COMMITS_ELSEWHERE = ("/api/v1/send", "/api/v1/send/batch")
MAY_BE_UNWELL = "/api/v1/health"  # its 503 is described: the machine's disk or memory, or Redis, which is away here
CONFIG = {
    "generation": {"with-security-parameters": False, "deterministic": True, "max-examples": RANDOM_CASES},
    "phases": {"stateful": {"enabled": False}},
}


@pytest.fixture(autouse=True)
def _peers(settings: Any) -> Iterator[None]:
    """Stripe and DNS answer from this process, so that no request leaves it."""
    with stripe_stand_in() as stripe, serving(Zone()) as zone:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE, settings.STRIPE_WEBHOOK_SECRET = "sk_x", stripe.url, SECRET
        settings.DNS_SERVERS = [zone.address]
        yield


@pytest.fixture(autouse=True)
def _one_transaction_a_case() -> Iterator[None]:
    """As Django's own client does it: else the end of a request would close the connection, transaction and all."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of refusals, each with its lines in the log, would take much of the time."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    credentials.remembered.clear()
    runtime._kept.forget()
    yield
    runtime._kept.forget()


@pytest.fixture(scope="module")
def api() -> BaseSchema:
    handler = WSGIHandler()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        return handler({"REMOTE_ADDR": "127.0.0.1", **environ}, start_response)

    found = schemathesis.openapi.from_dict(copy.deepcopy(described()), config=SchemathesisConfig.from_dict(CONFIG))
    found.app = application
    return found


def test_every_operation_is_asked(api: BaseSchema) -> None:
    asked = {cast(Any, result).ok().label for result in api.get_all_operations()}
    assert asked == {
        f"{method.upper()} {path}" for path, item in described()["paths"].items() for method in item
    }  # fmt: skip


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("share", range(SHARES))
def test_every_answer_is_as_the_schema_describes_it(api: BaseSchema, share: int) -> None:
    tenant = tenants.make("acme")
    callers = [{}, tenants.headers_of(tenant.key), tenants.headers_of(tenants.staff())]
    failures = []
    for result in itertools.islice(api.get_all_operations(), share, None, SHARES):
        operation = cast(Any, result).ok()
        asking = build_operation_test(
            config=api.config,
            operation=operation,
            test_func=_asking(tenant, callers),
            given_kwargs={},
            feedback=FeedbackSources(),
        )
        try:
            asking()
        except FailureGroup as group:
            failures += [f"{operation.label}\n{failure}" for failure in (group, *group.exceptions)]
    assert not failures, "\n\n".join(failures)


def _asking(tenant: tenants.Tenant, callers: Sequence[Mapping[str, str]]) -> Callable[[Any], None]:
    turns = itertools.count()

    def ask(case: Any) -> None:
        turn = next(turns)
        if turn // len(callers) % 2 == 0:  # an object that exists, in place of what the schema would make up
            case.path_parameters |= {name: str(tenant.id_of(case.path, name)) for name in case.path_parameters}
        is_example = case.meta is not None and case.meta.phase.name is TestPhase.EXAMPLES
        for headers in callers if is_example or IS_WHOLE else [callers[turn % len(callers)]]:
            response = _answer(case, headers)
            is_unwell = case.path == MAY_BE_UNWELL and response.status_code == 503
            case.validate_response(response, checks=CHECKS[1:] if is_unwell else CHECKS)

    return ask


def _answer(case: Any, headers: Mapping[str, str]) -> Any:
    if case.path in COMMITS_ELSEWHERE:
        return case.call(headers=dict(headers))
    with transaction.atomic():
        response = case.call(headers=dict(headers))
        transaction.set_rollback(True)
    return response
