"""The tables of the usage view, and how a connection to one of its files is opened and checked.

Texts that repeat stand once: ``classes`` holds every combination of key, user, team, customer,
model, provider and outcome that occurred, ``details`` what else repeats; a request names a row of
each. ``cells`` are the roll-ups: one per hour and class, and one per day (UTC) and class. Besides
answering sums they tell which hours hold a class or a cost at all, so that lists of requests need
no index per filter, which would be paid at every insertion. They are made for some thousand
requests at a time: requests from position ``rolled`` on, the tail, are in no cell yet.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bifrost.errors import StoreError

VERSION = 2  # 1 had neither roll-ups nor a version number
APPLICATION = 0x42466F55
HOUR = 3_600_000_000_000
SPANS = (1, 24)  # hours a cell may span, counted from the epoch

CLASS = ("key", "user", "team", "customer", "model", "provider", "outcome", "status", "code")
DETAIL = ("asked", "stream", "source", "tier", "speed", "geo", "prices", "agent", "provider_key")
TOKENS = ("in_fresh", "in_cache_read", "in_cache_w5m", "in_cache_w1h", "in_tool", "out_text",
          "out_think")  # fmt: skip
COUNTS = (*TOKENS, "web_searches", "cost", "reserved", "output_limit", "took_ns", "first_byte_ns")
TEXTS = ("request", "session", "upstream_request")
REQUEST = ("at", *COUNTS, *TEXTS)  # after pos, class and detail; the names are the event's own
SUMS = ("requests", "input", "cache_read", "cache_write", "output", "cost")

# A request's id is looked up in every block of 4096 positions. An index over all of them would
# touch a page per request at insertion, because ids are random.
BLOCK = "(pos >> 12)"

SCHEMA = f"""
CREATE TABLE progress (
  only INTEGER PRIMARY KEY CHECK (only = 1), next INTEGER NOT NULL,
  rolled INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0, 0);
CREATE TABLE classes (id INTEGER PRIMARY KEY, {", ".join(CLASS)}, UNIQUE ({", ".join(CLASS)}));
CREATE INDEX classes_user ON classes (user);
CREATE TABLE details (id INTEGER PRIMARY KEY, {", ".join(DETAIL)}, UNIQUE ({", ".join(DETAIL)}));
CREATE TABLE requests (
  pos INTEGER PRIMARY KEY, class INTEGER NOT NULL, detail INTEGER NOT NULL, at INTEGER NOT NULL,
  {", ".join(f"{name} INTEGER NOT NULL" for name in COUNTS)}, {", ".join(TEXTS)}
);
CREATE INDEX requests_at ON requests (at, class);
CREATE INDEX requests_id ON requests ({BLOCK}, request);
CREATE TABLE cells (
  hours INTEGER, start INTEGER, class INTEGER,
  {", ".join(f"{name} INTEGER NOT NULL" for name in SUMS)}, dearest INTEGER NOT NULL,
  PRIMARY KEY (hours, start, class)
) WITHOUT ROWID;
CREATE TABLE differences (
  pos INTEGER PRIMARY KEY, at INTEGER NOT NULL, request TEXT, cost INTEGER NOT NULL, class INTEGER
);
CREATE INDEX differences_request ON differences (request);
CREATE INDEX differences_at ON differences (at) WHERE class IS NOT NULL;
CREATE TABLE thresholds (pos INTEGER PRIMARY KEY, at INTEGER NOT NULL, event TEXT NOT NULL);
CREATE INDEX thresholds_at ON thresholds (at);
CREATE TABLE names (id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX names_name ON names (name);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


class Unusable(StoreError):
    """The file is damaged, foreign or of another version; a rebuild from the log helps."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to an existing file, set up but not checked."""
    mode = "ro" if read_only else "rw"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, timeout=10, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA cache_size = -32000")
    if not read_only:
        # A page changes many times while its hour lasts; rare checkpoints write it back once.
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;"
        )
    return db


def make(path: Path) -> None:
    """Makes an empty view in a new file."""
    path.touch(mode=0o600, exist_ok=False)
    db = connect(path)
    try:
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    finally:
        db.close()


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raises Unusable when this is not a view of this version; StoreError for a newer one."""
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("SELECT next FROM progress").fetchone()
    except sqlite3.DatabaseError as error:
        if not damaged(error) and "no such table" not in str(error):
            raise
        raise Unusable(f"The usage view {path} is damaged or of an old version") from error
    if application != APPLICATION or version < VERSION:
        raise Unusable(f"The usage view {path} is of an old version or not ours")
    if version > VERSION:
        raise StoreError(
            f"The usage view {path} was written by a newer Bifrost; upgrade this one,"
            " or build the view anew with `bifrost usage rebuild`."
        )


def damaged(error: BaseException) -> bool:
    """Whether SQLite says that the content of the file makes no sense."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
