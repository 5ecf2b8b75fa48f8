"""GET /bundle and the admin's routes: what is served, what could be, activate, roll back."""

from __future__ import annotations

from collections.abc import Awaitable

from fastapi import APIRouter

from model.bundle import BundleError
from service.core import Service
from service.errors import ApiError, ErrorCode
from service.routes.common import JSON_ONLY, ServiceOf, refusals
from service.schemas import BundleAnswer
from service.schemas_bundles import ActivateRequest, BundleListed, BundlesAnswer
from service.stores.contract import StoreUnavailable
from service.users import RETRY_AFTER_S

router = APIRouter(tags=["bundles"])

_REFUSALS = refusals(ErrorCode.BUNDLE_REFUSED, ErrorCode.STORE_UNAVAILABLE)


@router.get("/bundle", summary="Which bundle is served?")
async def bundle(service: ServiceOf) -> BundleAnswer:
    """Its name and version, or why there is none."""
    return _answer(service)


@router.get("/admin/bundles", responses=refusals(ErrorCode.BUNDLE_REFUSED), summary="Which versions are there?")
async def bundles(service: ServiceOf) -> BundlesAnswer:
    """Every published version of the bundle's name, oldest first."""
    try:
        found = await service.following.list()
    except BundleError as error:
        raise ApiError(ErrorCode.BUNDLE_REFUSED, str(error)) from None
    return BundlesAnswer(
        bundles=[
            BundleListed(
                version=entry.version,
                recipe=entry.manifest.recipe,
                created=entry.manifest.created,
                served=entry.version == service.bundles.version,
            )
            for entry in found
        ]
    )


@router.post("/admin/bundles/activate", dependencies=[JSON_ONLY], responses=_REFUSALS, summary="Serve a version")
async def activate(body: ActivateRequest, service: ServiceOf) -> BundleAnswer:
    """Loaded beside the running one, verified, proved on its golden requests, then swapped; every replica follows in
    a second or as long as it takes to load. After a 409 nothing has changed."""
    return await _done(service, service.following.activate(body.version))


@router.post("/admin/bundles/rollback", responses=_REFUSALS, summary="Serve the version before this one")
async def rollback(service: ServiceOf) -> BundleAnswer:
    """At once where it is still in memory. Twice is where one began."""
    return await _done(service, service.following.rollback())


async def _done(service: Service, work: Awaitable[None]) -> BundleAnswer:
    try:
        await work
    except BundleError as error:
        raise ApiError(ErrorCode.BUNDLE_REFUSED, str(error)) from None
    except StoreUnavailable:
        message = "this replica serves it, but the store refuses to tell the others; ask again"
        raise ApiError(ErrorCode.STORE_UNAVAILABLE, message, retry_after=RETRY_AFTER_S) from None
    return _answer(service)


def _answer(service: Service) -> BundleAnswer:
    served = service.bundles.served
    return BundleAnswer(
        bundle=None if served is None else served.label,
        state=service.bundles.state,
        kind=None if served is None else served.recommender.kind,
        items=0 if served is None else len(served.recommender.catalogue),
        reason=service.bundles.reason,
    )
