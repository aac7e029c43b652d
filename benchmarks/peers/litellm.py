"""LiteLLM's proxy: one worker, any model, no database, so one key and no budgets."""

from __future__ import annotations

import json
import sys

from benchmarks.cases import KEY
from benchmarks.peers.peer import Peer, cache, main, place, said

PACKAGE = "litellm[proxy]"


class Litellm(Peer):
    """LiteLLM, from PyPI, in an environment of its own."""

    name = "litellm"
    heavy = True
    patience = 180.0

    @classmethod
    def find(cls) -> str | None:
        """The environment's Python, None if it is not installed."""
        python = cache() / "litellm" / "bin" / "python"
        return str(python) if python.exists() else None

    @classmethod
    def version(cls) -> str | None:
        """The package's version."""
        code = "import importlib.metadata as m; print('=' + m.version('litellm'))"
        program = cls.find()
        return said([program, "-c", code], r"=(\S+)") if program else None

    @classmethod
    def install(cls) -> None:
        """About 750 MB."""
        place("litellm", [[sys.executable, "-m", "venv", "{}"],
                          ["{}/bin/python", "-m", "pip", "install", "-q", PACKAGE]])  # fmt: skip

    def command(self, program: str) -> list[str]:
        """Writes config.yaml (JSON is YAML)."""
        config = self.folder / "config.yaml"
        params = {"model": "anthropic/*", "api_base": f"http://{self.upstream}",
                  "api_key": "sk-ant-not-a-real-key"}  # fmt: skip
        config.write_text(json.dumps({
            "model_list": [{"model_name": "*", "litellm_params": params}],
            "litellm_settings": {"telemetry": False},
        }))  # fmt: skip
        start = "import sys; from litellm import run_server; sys.exit(run_server())"
        return [program, "-c", start, "--config", str(config), "--host", "127.0.0.1",
                "--port", str(self.port), "--num_workers", "1", "--telemetry", "False"]  # fmt: skip

    def variables(self) -> dict[str, str]:
        """The one key it knows; its own price list, not one from the network; as in production."""
        return {
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "PYTHONPATH": "",
        }


if __name__ == "__main__":
    main(Litellm)
