"""``bifrost mock``: the built-in mock provider."""

from __future__ import annotations

from typing import Any

import click

from bifrost.mock.manners import MANNERS


@click.command("mock")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--uds", help="Listen on a Unix socket instead.")
@click.option("--latency-ms", type=click.IntRange(0), default=0, help="Wait before the first byte.")
@click.option("--chunks", type=click.IntRange(1), default=4, help="Text deltas of an answer.")
@click.option("--chunk-interval-ms", type=click.IntRange(0), default=0, help="Wait between two.")
@click.option("--input-tokens", type=click.IntRange(0), help="Input tokens of every answer.")
@click.option("--output-tokens", type=click.IntRange(0), help="Output tokens of every answer.")
@click.option("--fail", type=click.IntRange(0, 599), default=0, help="Answer this status.")
@click.option("--fail-rate", type=click.FloatRange(0, 1, min_open=True), default=1.0,
              help="For this share of the requests.")  # fmt: skip
@click.option("--cut-after", type=click.IntRange(0), default=0, help="Drop after K events.")
@click.option("--script", type=click.Choice(["tool"]), help="Ask the agent for one tool call.")
@click.option("--streams-only", is_flag=True, help="Refuse OpenAI requests that want no stream.")
@click.option("--like", type=click.Choice(list(MANNERS)),
              help="Whose Chat Completions it speaks, if not OpenAI's.")  # fmt: skip
@click.option("--record", is_flag=True,
              help="Keep requests and bills (/__mock/requests, /__mock/bills).")  # fmt: skip
@click.option("--record-bodies", is_flag=True, help="The same, with the bodies of requests.")
def mock(**options: Any) -> None:
    """A provider that costs nothing: Anthropic, OpenAI, Gemini and Converse, known usage.

    \b
    Example:
      bifrost mock --port 9100 --script tool
    """
    from bifrost.mock.options import MockOptions
    from bifrost.mock.server import run

    run(MockOptions(**options))
