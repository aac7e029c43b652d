"""Money as text: int nano-USD to decimal strings. A leaf."""

from __future__ import annotations

from decimal import Decimal

NANO = 1_000_000_000


def usd(nano: int, *, places: int = 2) -> str:
    """Nano-USD as an exact decimal string with at least ``places`` decimals, e.g. ``12.3456``."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO)
    if not fraction:
        return f"{sign}{whole}.{'0' * places}" if places else f"{sign}{whole}"
    return f"{sign}{whole}.{f'{fraction:09d}'.rstrip('0').ljust(places, '0')}"


def dollars(nano: int) -> str:
    """Nano-USD as a person reads it: ``$75.00``, below a cent ``$0.0042``."""
    if nano != 0 and abs(nano) < NANO // 100:
        return "$" + usd(nano)
    return f"${Decimal(nano) / NANO:,.2f}"
