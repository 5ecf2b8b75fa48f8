"""What goes over the wire about bundles."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.schemas import Strict, shown


class ActivateRequest(Strict):
    """Which version to serve."""

    model_config = shown({"version": "3f2a90c11d7e"})

    version: str = Field(min_length=1, max_length=64, description="As GET /admin/bundles names it.")


class BundleListed(BaseModel):
    """One published version. created: ISO 8601, UTC. served: by this replica, now."""

    version: str
    recipe: str
    created: str
    served: bool


class BundlesAnswer(BaseModel):
    """Every version, oldest first."""

    model_config = shown(
        {
            "bundles": [
                {"version": "3f2a90c11d7e", "recipe": "contrec", "created": "2026-11-27T03:00:12+00:00", "served": True}
            ]
        }
    )

    bundles: list[BundleListed]
