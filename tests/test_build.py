from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bifrost.errors import ConfigError
from bifrost.metering.build import build

LISTING = {
    "sample_spec": {"mode": "chat", "litellm_provider": "one of …"},
    "claude-x": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": "3e-06",
        "output_cost_per_token": "1.5e-05",
        "cache_read_input_token_cost": "3e-07",
        "cache_creation_input_token_cost": "3.75e-06",
        "input_cost_per_token_batches": "1.5e-06",
        "output_cost_per_token_batches": "7.5e-06",
        "input_cost_per_token_above_200k_tokens": "6e-06",
        "search_context_cost_per_query": {"search_context_size_medium": "0.01"},
        "provider_specific_entry": {"us": "1.1", "fast": "2.0"},
        "max_output_tokens": 64000,
        "supports_vision": True,
    },
    "gemini/odd": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": "1.00000000000049e-06",
        "output_cost_per_token": "2e-06",
        "cache_read_input_token_cost": "1e-07",
        "cache_creation_input_token_cost": 0,
        "input_cost_per_token_flex": "5e-07",
        "output_cost_per_token_flex": "1e-06",
        "cache_read_input_token_cost_flex": "1e-07",
    },
    "gemini/free": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    },
    "gemini/painter": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": "1e-06",
        "output_cost_per_token": "1e-06",
        "output_cost_per_image_token": "1e-04",
    },
    "embed": {
        "litellm_provider": "openai",
        "mode": "embedding",
        "input_cost_per_token": "2e-08",
    },
    "dall-e": {"litellm_provider": "openai", "mode": "image_generation"},
    "other/one": {"litellm_provider": "other", "mode": "chat", "input_cost_per_token": "1e-06"},
}


BUILT = {
    "input": 3_000_000,
    "output": 15_000_000,
    "cache_read": 300_000,
    "cache_write_5m": 3_750_000,
    "cache_write_1h": 6_000_000,
    "thinking": 15_000_000,
    "tiers": [
        {
            "input": 6_000_000,
            "output": 15_000_000,
            "cache_read": 6_000_000,
            "cache_write_5m": 7_500_000,
            "cache_write_1h": 12_000_000,
            "thinking": 15_000_000,
            "above": 200_000,
        }
    ],
    "web_search": 10_000_000,
    "multipliers": {
        "service_tier": {"batch": [1, 2]},
        "speed": {"fast": [2, 1]},
        "inference_geo": {"us": [11, 10]},
    },
    "auto": {"inference_geo": ["us"]},
    "max_output_tokens": 64_000,
}


def test_a_build_is_exact_and_reports_what_it_left_out(tmp_path: Path) -> None:
    listing, out = tmp_path / "listing.json", tmp_path / "prices.json"
    text = json.dumps(LISTING)
    for number in ("3e-06", "1.5e-05", "3e-07", "3.75e-06", "1.5e-06", "7.5e-06", "6e-06", "0.01",
                   "1.1", "2.0", "1.00000000000049e-06", "2e-06", "1e-07", "5e-07", "1e-06",
                   "1e-04", "2e-08"):  # fmt: skip
        text = text.replace(f'"{number}"', number)
    listing.write_text(text)
    report = build(listing, out, source="litellm 0", date="2026-01-01")
    assert report.models == {"anthropic": 1, "gemini": 1, "openai": 1}
    assert report.skipped == {
        "gemini/free": "no input price per token",
        "gemini/painter": "image output is dearer than text",
    }
    assert report.rounded == ("gemini/odd input_cost_per_token: 0.00000100000000000049",)
    assert sorted(report.assumed) == [
        "anthropic/claude-x cache_write_1h",
        "anthropic/claude-x cache_write_5m",
    ]
    written = json.loads(out.read_bytes())
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert (written["source"], written["input_sha256"]) == ("litellm 0", digest)
    claude = written["models"]["anthropic/claude-x"]
    assert claude["features"] == "vision"
    assert claude["price"] == BUILT
    odd = written["models"]["gemini/odd"]["price"]
    assert (odd["input"], odd["cache_write_5m"]) == (1_000_001, 1_000_001)
    assert odd["service_tiers"]["flex"]["cache_read"] == 100_000
    assert written["models"]["openai/embed"]["mode"] == "embedding"


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    listing = tmp_path / "listing.json"
    listing.write_text("[]")
    with pytest.raises(ConfigError, match="expected an object"):
        build(listing, tmp_path / "out", source="s", date="d")
    listing.write_text("{")
    with pytest.raises(ConfigError, match=r"listing\.json"):
        build(listing, tmp_path / "out", source="s", date="d")
