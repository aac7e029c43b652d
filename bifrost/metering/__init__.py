"""Usage and money: what a request consumed and what that costs. Imports only bifrost.errors."""

from bifrost.metering.catalogue import Catalogue, ModelInfo
from bifrost.metering.prices import Price, describe
from bifrost.metering.usage import Iteration, Usage, from_message, from_stream, output_estimate

__all__ = [
    "Catalogue",
    "Iteration",
    "ModelInfo",
    "Price",
    "Usage",
    "describe",
    "from_message",
    "from_stream",
    "output_estimate",
]
