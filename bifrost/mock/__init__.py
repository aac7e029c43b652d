"""The built-in mock provider: Anthropic Messages, OpenAI Chat and Responses, Gemini, Converse.

Serves any path prefix before a provider's own path, JSON, SSE and frames, with usage that depends
on nothing but the request. A room of its own: imports only ``bifrost.errors`` of bifrost, so that
what it counts cannot share a mistake with what the gateway counts.

Usage of an answer: input (body bytes + 3) // 4, output the smaller of 16 tokens per chunk and the
request's own limit. These request headers steer one answer, and pass through a gateway:

``x-mock-usage``
    JSON with Anthropic's names: ``{"input_tokens":412,"cache_creation_input_tokens":1024,
    "cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":24},
    "cache_read_input_tokens":12288,"output_tokens":287,"thinking_tokens":40}``; each may be left
    out. Other dialects show the same tokens in their own way. Anthropic answers also show
    ``service_tier``, ``speed``, ``inference_geo``, ``server_tool_use`` and ``iterations`` as given.
``x-mock-latency-ms``, ``x-mock-chunks``, ``x-mock-chunk-interval-ms``
    As the options of the same name.
``x-mock-fail: 529``, ``x-mock-retry-after: 7``
    Fails with this status; 0 exempts the request from the option ``fail``. The second header is
    the retry-after (seconds, default 1) of a 429 or 529.
``x-mock-cut-after: 3``
    Closes the connection after 3 SSE events (a shorter stream is not cut), or after half of a
    JSON body.
``x-mock-error-event: 1``
    Ends a stream after half of its deltas with the dialect's error event.

``GET /__mock/account`` tells what was served, ``POST /__mock/reset`` forgets it. With the option
``record`` ``GET /__mock/requests?last=N`` tells the requests and ``GET /__mock/bills?last=N`` what
each was billed, under the ``x-request-id`` it came with.
"""

from __future__ import annotations

from bifrost.mock.options import MockOptions
from bifrost.mock.server import MockServer, run, running, start

__all__ = ["MockOptions", "MockServer", "run", "running", "start"]
