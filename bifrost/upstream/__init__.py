"""Connections to providers; knows nothing of money or dialects."""

from __future__ import annotations

from bifrost._fast.client import WAKE
from bifrost.upstream.pool import Exchange, NetworkOptions, Origin, Upstreams

__all__ = ["WAKE", "Exchange", "NetworkOptions", "Origin", "Upstreams"]
