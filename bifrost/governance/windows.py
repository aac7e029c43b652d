"""Budget windows computed from the clock: no job resets anything, a window is a pure function.

Every instant is int nanoseconds since the Unix epoch (years 1678 to 2261); windows are half-open.
Imports only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

_NS = 1_000_000_000
_DAY = 86_400
_SECONDS = {"m": 60, "h": 3_600, "d": _DAY, "w": 7 * _DAY}
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_UTC = ZoneInfo("UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY = date(1970, 1, 5)
_SHAPE = re.compile(r"([1-9][0-9]{0,3})([mhdwMQY])")
_MOST = 1_000
_MOST_KNOWN = 10_000
_latest: dict[tuple[str, int, bool, str, int], tuple[int, int]] = {}  # many budgets share one


@dataclass(frozen=True, slots=True)
class Duration:
    """``count`` times ``unit``: m minute, h hour, d day, w week, M month, Q quarter, Y year."""

    count: int
    unit: str


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> Duration:
    """The duration written as ``<n><unit>``, n from 1 to 1000; ValueError says what is wrong."""
    shape = _SHAPE.fullmatch(text)
    if shape is None or int(shape[1]) > _MOST:
        raise ValueError(
            f"expected a number from 1 to {_MOST} and one of m h d w M Q Y (minutes, hours, days,"
            f" weeks, months, quarters, years), such as '1M', got {text[:24]!r}"
        )
    return Duration(int(shape[1]), shape[2])


def window(
    duration: str,
    *,
    now_ns: int,
    created_ns: int,
    calendar_aligned: bool,
    time_zone: str,
    fiscal_start: int = 1,
    reset_at: int = 0,
) -> tuple[int, int]:
    """The window (start_ns, end_ns) that holds ``now_ns``; before the creation, the first one.

    ``fiscal_start`` is the month, 1 to 12, in which aligned quarters and years begin. A window in
    which ``reset_at`` lies begins anew there and ends where it would have ended.

    Not aligned: windows follow one another from ``created_ns``. m, h, d, w have a fixed length
    (a day is 24 h); M, Q, Y step by calendar months in the zone from the local time of creation,
    always counted from there, on the last day of a month that is too short.

    Aligned: days begin at local midnight, weeks on Monday, months on the 1st, quarters in January,
    April, July and October, years on 1 January. n days or weeks are grouped from Monday
    1970-01-05, n months, quarters or years from year 0. Minutes and hours count from local
    midnight when n of them divide a day, else from the Unix epoch in UTC. Where clocks change,
    they keep their length if that day is a whole number of them; otherwise they follow the wall
    clock, and the window that holds the change is longer or shorter.

    Raises ValueError for a duration or time zone that does not exist.
    """
    now_ns = max(now_ns, created_ns)
    origin = 0 if calendar_aligned else created_ns
    same = (duration, origin, calendar_aligned, time_zone, fiscal_start)
    start, end = _latest.get(same, (0, 0))
    if not start <= now_ns < end:
        start, end = _window(
            parse_duration(duration), now_ns, origin, calendar_aligned, time_zone, fiscal_start
        )
        if len(_latest) >= _MOST_KNOWN:
            _latest.clear()
        _latest[same] = start, end
    return (reset_at, end) if start < reset_at <= now_ns else (start, end)


def _window(
    parsed: Duration,
    now: int,
    created_ns: int,
    calendar_aligned: bool,
    time_zone: str,
    fiscal_start: int,
) -> tuple[int, int]:
    count, unit = parsed.count, parsed.unit
    seconds = count * _SECONDS.get(unit, 0)
    if not calendar_aligned:
        if seconds:
            return _steps(created_ns, seconds * _NS, now)
        return _rolling_months(count * _MONTHS[unit], now, created_ns, _zone(time_zone))
    zone = _zone(time_zone)
    if unit in _MONTHS:
        shift = fiscal_start - 1 if unit in "QY" else 0
        return _aligned_months(count * _MONTHS[unit], now, zone, shift)
    if unit in "dw":
        return _aligned_days(seconds // _DAY, now, zone)
    if _DAY % seconds:
        return _steps(0, seconds * _NS, now)
    return _within_day(seconds, now, zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone named {name[:64]!r} in the IANA database") from None


def _steps(origin: int, length: int, now: int) -> tuple[int, int]:
    start = now - (now - origin) % length
    return start, start + length


def _search(start_of: Callable[[int], int], guess: int, now: int) -> tuple[int, int, int]:
    """(k, start of k, start of k + 1) around ``now``; ``start_of`` never decreases."""
    k = guess
    while (start := start_of(k)) > now:
        k -= 1
    while (end := start_of(k + 1)) <= now:
        k, start = k + 1, end
    return k, start, end


def _local(instant_ns: int, zone: tzinfo) -> datetime:
    """The wall clock at an instant, cut to whole seconds, without zone."""
    moment = _EPOCH + timedelta(seconds=instant_ns // _NS)
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _first_instant(wall: datetime, zone: tzinfo) -> int:
    """The first instant at which the zone's clocks show ``wall`` or, where it is skipped, more."""
    naive = (wall - datetime(1970, 1, 1)) // timedelta(seconds=1)
    if zone is _UTC:
        return naive * _NS
    earlier = wall.replace(tzinfo=zone, fold=0)
    later = wall.replace(tzinfo=zone, fold=1)
    before, after = earlier.utcoffset(), later.utcoffset()
    if before is None or after is None:
        raise ValueError(f"the time zone {zone} has no offset for {wall}")
    first = naive - before // timedelta(seconds=1)
    if after <= before:
        return first * _NS
    low = naive - after // timedelta(seconds=1)
    while first - low > 1:
        middle = (low + first) // 2
        moment = (_EPOCH + timedelta(seconds=middle)).astimezone(zone)
        low, first = (middle, first) if moment.utcoffset() == before else (low, middle)
    return first * _NS


def _month(index: int) -> date:
    """The first day of a month counted from January of year 0."""
    return date(index // 12, index % 12 + 1, 1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)


def _rolling_months(months: int, now: int, created: int, zone: tzinfo) -> tuple[int, int]:
    anchor = _local(created, zone)
    first = anchor.year * 12 + anchor.month - 1

    def start_of(k: int) -> int:
        if k <= 0:
            return created
        index = first + k * months
        last_day = (_month(index + 1) - timedelta(days=1)).day
        month = _month(index)
        wall = anchor.replace(month.year, month.month, min(anchor.day, last_day))
        return _first_instant(wall, zone) + created % _NS

    here = _local(now, zone)
    guess = (here.year * 12 + here.month - 1 - first) // months
    return _search(start_of, max(guess, 0), now)[1:]


def _aligned_months(months: int, now: int, zone: tzinfo, shift: int) -> tuple[int, int]:
    """``shift``: months from January to the month in which the first window of a year begins."""
    here = _local(now, zone)
    guess = (here.year * 12 + here.month - 1 - shift) // months

    def start_of(k: int) -> int:
        return _first_instant(_midnight(_month(k * months + shift)), zone)

    return _search(start_of, guess, now)[1:]


def _aligned_days(days: int, now: int, zone: tzinfo) -> tuple[int, int]:
    guess = (_local(now, zone).date() - _FIRST_MONDAY).days // days
    return _search(lambda k: _day_start(k * days, zone), guess, now)[1:]


def _day_start(number: int, zone: tzinfo) -> int:
    """The first instant of a local day counted from Monday 1970-01-05."""
    return _first_instant(_midnight(_FIRST_MONDAY + timedelta(days=number)), zone)


def _within_day(seconds: int, now: int, zone: tzinfo) -> tuple[int, int]:
    here = _local(now, zone)
    guess = (here.date() - _FIRST_MONDAY).days
    number, start, end = _search(lambda k: _day_start(k, zone), guess, now)
    length = seconds * _NS
    if (end - start) % length == 0:
        return _steps(start, length, now)
    midnight = _midnight(_FIRST_MONDAY + timedelta(days=number))
    parts = _DAY // seconds

    def start_of(k: int) -> int:
        # The day's own edges hold, even where clocks fall back across midnight.
        if k <= 0:
            return start
        if k >= parts:
            return end
        return min(_first_instant(midnight + timedelta(seconds=k * seconds), zone), end)

    guess = (here - midnight) // timedelta(seconds=seconds)
    return _search(start_of, min(max(guess, 0), parts - 1), now)[1:]
