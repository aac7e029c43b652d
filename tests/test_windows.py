"""Budget windows: fixed examples by hand, and properties over random instants and zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bifrost.governance.windows import Duration, parse_duration, window

NS = 1_000_000_000
HOUR = 3_600 * NS
DAY = 24 * HOUR
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


def ns(text: str, zone: str = "UTC", fold: int = 0) -> int:
    """A local date-time as nanoseconds."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return int(moment.timestamp()) * NS


def aligned(duration: str, now: int, zone: str = "UTC") -> tuple[int, int]:
    return window(duration, now_ns=now, created_ns=now, calendar_aligned=True, time_zone=zone)


def rolling(duration: str, now: int, created: int, zone: str = "UTC") -> tuple[int, int]:
    return window(duration, now_ns=now, created_ns=created, calendar_aligned=False, time_zone=zone)


def local(instant: int, zone: str) -> datetime:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=instant // NS)
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@pytest.mark.parametrize("text", ["1m", "15m", "1h", "24h", "7d", "1w", "1M", "3Q", "1000Y"])
def test_durations(text: str) -> None:
    assert parse_duration(text) == Duration(int(text[:-1]), text[-1])


@pytest.mark.parametrize("text", ["", "1", "M", "0d", "01d", "-1d", "1001d", "1.5h", "1 d", "1D"])
def test_bad_durations_say_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="from 1 to 1000 and one of m h d w M Q Y"):
        parse_duration(text)


def test_a_newline_or_a_foreign_digit_is_no_duration() -> None:
    for text in ("1d\n", "١d"):
        with pytest.raises(ValueError):
            parse_duration(text)


@pytest.mark.parametrize("zone", ["Europe/Berln", "", "../UTC", "America", "/etc/localtime"])
def test_unknown_zone(zone: str) -> None:
    with pytest.raises(ValueError, match="no time zone named"):
        aligned("1d", 0, zone)


def test_rolling_fixed_lengths_follow_from_the_creation() -> None:
    created = ns("2026-03-10T09:30:00") + 7
    for unit, length in (("m", 60 * NS), ("h", HOUR), ("d", DAY), ("w", 7 * DAY)):
        start, end = rolling(f"2{unit}", created + 5 * length, created, "Europe/Berlin")
        assert (start, end) == (created + 4 * length, created + 6 * length)


def test_a_rolling_day_is_24_hours_across_a_clock_change() -> None:
    created = ns("2026-03-28T12:00:00", "Europe/Berlin")
    assert rolling("1d", created + DAY, created, "Europe/Berlin") == (
        created + DAY,
        created + 2 * DAY,
    )
    assert local(created + DAY, "Europe/Berlin").hour == 13


def test_rolling_months_are_counted_from_the_anchor_and_never_drift() -> None:
    created = ns("2027-01-31T10:00:00") + 5
    starts = [created]
    for _ in range(14):
        start, end = rolling("1M", starts[-1], created)
        assert start == starts[-1]
        starts.append(end)
    days = [(s.month, s.day) for s in (local(instant, "UTC") for instant in starts)]
    assert days[:6] == [(1, 31), (2, 28), (3, 31), (4, 30), (5, 31), (6, 30)]
    assert days[12:15] == [(1, 31), (2, 29), (3, 31)]
    assert {start % NS for start in starts} == {5}


def test_rolling_quarters_and_years() -> None:
    created = ns("2024-02-29T00:00:00")
    assert rolling("1Y", ns("2025-06-01"), created) == (ns("2025-02-28"), ns("2026-02-28"))
    assert rolling("1Y", ns("2028-03-01"), created) == (ns("2028-02-29"), ns("2029-02-28"))
    assert rolling("1Q", ns("2024-08-29"), created) == (ns("2024-08-29"), ns("2024-11-29"))


def test_rolling_months_keep_the_local_time_across_clock_changes() -> None:
    zone = "Europe/Berlin"
    created = ns("2026-03-15T08:00:00", zone)
    assert rolling("1M", created + 20 * DAY, created, zone)[1] == ns("2026-04-15T08:00:00", zone)
    # 02:30 does not exist on 29 March 2026: the window begins when the clocks have jumped.
    created = ns("2026-01-29T02:30:00", zone)
    start, _ = rolling("2M", ns("2026-04-01", zone), created, zone)
    assert start == ns("2026-03-29T03:00:00", zone)


def test_before_the_creation_the_first_window_holds() -> None:
    created = ns("2026-05-05T05:00:00")
    assert rolling("1d", created - 99 * DAY, created) == (created, created + DAY)
    assert rolling("1M", created - 1, created) == (created, ns("2026-06-05T05:00:00"))
    first = window(
        "1M", now_ns=0, created_ns=created, calendar_aligned=True, time_zone="Europe/Berlin"
    )
    assert first == aligned("1M", created, "Europe/Berlin")


@pytest.mark.parametrize(
    ("duration", "start", "end"),
    [
        ("1m", "2026-11-25T14:37:00", "2026-11-25T14:38:00"),
        ("15m", "2026-11-25T14:30:00", "2026-11-25T14:45:00"),
        ("1h", "2026-11-25T14:00:00", "2026-11-25T15:00:00"),
        ("6h", "2026-11-25T12:00:00", "2026-11-25T18:00:00"),
        ("24h", "2026-11-25T00:00:00", "2026-11-26T00:00:00"),
        ("1d", "2026-11-25T00:00:00", "2026-11-26T00:00:00"),
        ("1w", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
        ("1M", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
        ("2M", "2026-11-01T00:00:00", "2027-01-01T00:00:00"),
        ("1Q", "2026-10-01T00:00:00", "2027-01-01T00:00:00"),
        ("2Q", "2026-07-01T00:00:00", "2027-01-01T00:00:00"),
        ("1Y", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
        ("5Y", "2025-01-01T00:00:00", "2030-01-01T00:00:00"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_aligned_windows_follow_the_local_calendar(
    duration: str, start: str, end: str, zone: str
) -> None:
    now = ns("2026-11-25T14:37:21", zone)
    assert aligned(duration, now, zone) == (ns(start, zone), ns(end, zone))


def test_groups_of_days_and_weeks_count_from_the_first_monday_of_1970() -> None:
    start, end = aligned("10d", ns("2026-11-25"))
    assert (start - ns("1970-01-05")) % (10 * DAY) == 0 and end - start == 10 * DAY
    start, end = aligned("2w", ns("2026-11-25"))
    assert local(start, "UTC").weekday() == 0 and (start - ns("1970-01-05")) % (14 * DAY) == 0


@pytest.mark.parametrize("duration", ["7h", "48h", "1000m"])
def test_lengths_that_do_not_divide_a_day_count_from_the_epoch(duration: str) -> None:
    length = int(duration[:-1]) * (HOUR if duration[-1] == "h" else 60 * NS)
    start, end = aligned(duration, ns("2026-11-25T14:37:21"), "Europe/Berlin")
    assert start % length == 0 and end - start == length


def test_days_of_23_and_25_hours() -> None:
    zone = "Europe/Berlin"
    spring, autumn = ns("2026-03-29T12:00:00", zone), ns("2026-10-25T12:00:00", zone)
    assert aligned("1d", spring, zone) == (ns("2026-03-29", zone), ns("2026-03-30", zone))
    assert [e - s for s, e in (aligned("1d", spring, zone), aligned("1d", autumn, zone))] == [
        23 * HOUR,
        25 * HOUR,
    ]


def test_a_midnight_that_does_not_exist() -> None:
    # 2018-11-04 began at 01:00 in Sao Paulo, 2023-04-28 at 01:00 in Cairo.
    for zone, day in (("America/Sao_Paulo", "2018-11-04"), ("Africa/Cairo", "2023-04-28")):
        start, end = aligned("1d", ns(f"{day}T15:00:00", zone), zone)
        assert start == ns(f"{day}T01:00:00", zone) and end - start == 23 * HOUR
        assert aligned("1d", start - 1, zone)[1] == start


def test_a_midnight_that_exists_twice_begins_the_day_once() -> None:
    # Havana's clocks went from 01:00 back to 00:00 on 2018-11-04.
    zone = "America/Havana"
    first, second = (ns("2018-11-04T00:00:00", zone, fold) for fold in (0, 1))
    assert second - first == HOUR
    assert aligned("1d", second, zone) == (first, first + 25 * HOUR)
    assert aligned("6h", second, zone) == (first, ns("2018-11-04T06:00:00", zone))
    # St John's went from 00:01 back to 23:01 of the day before on 2010-11-07.
    zone = "America/St_Johns"
    midnight = ns("2010-11-07T00:00:00", zone)
    back_again = midnight + 30 * 60 * NS
    assert local(back_again, zone).day == 6
    assert aligned("1d", back_again, zone) == (midnight, midnight + 25 * HOUR)


def test_a_day_that_does_not_exist_has_no_window() -> None:
    # Samoa left out 2011-12-30.
    zone = "Pacific/Apia"
    start, end = aligned("1d", ns("2011-12-31T05:00:00", zone), zone)
    assert aligned("1d", start - 1, zone) == (start - DAY, start)
    assert local(start - 1, zone).day == 29 and local(start, zone).day == 31
    assert end - start == DAY


def test_hours_keep_their_length_when_the_shift_is_a_whole_number_of_them() -> None:
    zone = "America/New_York"
    now = ns("2026-11-01T00:30:00", zone)
    starts = []
    for _ in range(4):
        start, now = aligned("1h", now, zone)
        assert now - start == HOUR
        starts.append(local(start, zone).hour)
    assert starts == [0, 1, 1, 2]


def test_longer_hours_follow_the_wall_clock_on_the_day_of_a_change() -> None:
    zone = "America/New_York"
    for day, first in (("2026-03-08", 5), ("2026-11-01", 7)):
        now, lengths, hours = ns(f"{day}T00:00:00", zone), [], []
        for _ in range(4):
            start, now = aligned("6h", now, zone)
            lengths.append((now - start) // HOUR)
            hours.append(local(start, zone).hour)
        assert lengths == [first, 6, 6, 6] and hours == [0, 6, 12, 18]


def test_half_an_hour_of_shift() -> None:
    zone = "Australia/Lord_Howe"
    start, end = aligned("1h", ns("2026-10-04T02:45:00", zone), zone)
    assert end - start == HOUR // 2 and local(start, zone).isoformat() == "2026-10-04T02:30:00"
    start, end = aligned("1h", ns("2026-04-05T01:45:00", zone, 1), zone)
    assert end - start == HOUR * 3 // 2 and local(start, zone).isoformat() == "2026-04-05T01:00:00"


INSTANTS = st.integers(ns("1972-01-01"), ns("2037-12-31"))
NEAR_CHANGES = st.builds(
    lambda day, offset: ns(day) + offset,
    st.sampled_from(
        "2018-11-04 2018-02-18 2010-11-07 2023-04-28 2011-12-30 2026-04-05 2026-10-04"
        " 2026-03-29 2026-10-25 2026-11-01".split()
    ),
    st.integers(-2 * DAY, 2 * DAY),
)
DURATIONS = st.builds(
    "{}{}".format,
    st.sampled_from([1, 2, 3, 4, 5, 6, 7, 10, 12, 15, 24, 30, 45, 60, 90, 365, 720, 1000]),
    st.sampled_from("mhdwMQY"),
)


@settings(max_examples=1200, deadline=None, derandomize=True, database=None)
@given(
    duration=DURATIONS,
    now=INSTANTS | NEAR_CHANGES,
    created=INSTANTS | NEAR_CHANGES,
    calendar=st.booleans(),
    zone=st.sampled_from(ZONES),
)
@example("45m", ns("2026-11-01T06:40:00"), 0, True, "America/New_York")
@example("30m", ns("2010-11-07T02:31:00"), 0, True, "America/St_Johns")
def test_windows_tile_time(
    duration: str, now: int, created: int, calendar: bool, zone: str
) -> None:
    def at(instant: int) -> tuple[int, int]:
        return window(
            duration, now_ns=instant, created_ns=created, calendar_aligned=calendar, time_zone=zone
        )

    now = max(now, created)
    start, end = at(now)
    assert start <= now < end
    assert at(end - 1) == at((now + end) // 2) == (start, end)
    assert at(max(start, created)) == (start, end)
    assert at(end)[0] == end
    if start > created:
        assert at(start - 1)[1] == start
    else:
        assert calendar or start == created


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(unit=st.sampled_from("dwMQY"), now=INSTANTS | NEAR_CHANGES, zone=st.sampled_from(ZONES))
def test_aligned_windows_begin_where_the_local_calendar_does(
    unit: str, now: int, zone: str
) -> None:
    start, end = aligned(f"1{unit}", now, zone)
    first, before = local(start, zone), local(start - NS, zone)
    assert first.date() > before.date()
    assert (first - first.replace(hour=0, minute=0)) <= timedelta(hours=1)
    day = {"d": True, "w": first.weekday() == 0, "M": first.day == 1}
    day["Q"] = day["M"] and first.month in (1, 4, 7, 10)
    day["Y"] = day["M"] and first.month == 1
    assert day[unit]
    longest = {"d": 1, "w": 7, "M": 31, "Q": 92, "Y": 366}[unit]
    assert end - start <= longest * DAY + HOUR
