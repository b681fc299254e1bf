"""The joint search for whoever wants no stages: experience first, then a small search around what did well."""

from __future__ import annotations

from luthier.expert.expert import Expert

__all__ = ["Expert"]
