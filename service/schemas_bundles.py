"""What goes over the wire about bundles."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.schemas import Strict


class ActivateRequest(Strict):
    """Which version to serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "3f2a90c11d7e"}]})

    version: str = Field(min_length=1, max_length=64, description="As GET /admin/bundles names it.")


class BundleListed(BaseModel):
    """One published version. created: ISO 8601, UTC. served: by this replica, now."""

    version: str
    recipe: str
    created: str
    served: bool


class BundlesAnswer(BaseModel):
    """Every version, oldest first."""

    bundles: list[BundleListed]
