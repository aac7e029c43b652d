"""The secrets that sign messages: the one in use, and those before it."""

from __future__ import annotations

from collections.abc import Sequence

from bifrost.config.findings import Findings
from bifrost.config.values import signing_key


def check_signing(place: str, secret: str, old: Sequence[str], findings: Findings) -> None:
    """Report which of a receiver's ``secret`` and ``old_secrets`` cannot sign; empty ones were."""
    secrets = {f"{place}.secret": secret}
    secrets |= {f"{place}.old_secrets[{n}]": one for n, one in enumerate(old)}
    for here, text in secrets.items():
        try:
            if text:
                signing_key(text)
        except ValueError as error:
            findings.add(here, str(error))
