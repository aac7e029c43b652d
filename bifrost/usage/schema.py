"""The tables of the usage view, and how a connection to one of its files is opened and checked.

Texts that repeat stand once: ``parties`` (key, user, team, customer), ``targets`` (model and
provider), ``classes`` (a party, a target and an outcome), ``details`` (what else repeats). A
request names its class and its details.

``blocks`` hold once more, in columns, what sums and lists look at: some thousand requests each, in
the order of the log, with their oldest and newest time and their dearest cost. Compiled code reads
a million requests of them in some tens of milliseconds, whatever the filter, group or time zone, so
that no further index is needed, which would be paid at every insertion. ``rollups`` hold the sums
per class of many blocks together: where a window covers one, its blocks are not read.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bifrost.errors import StoreError

VERSION = 3  # 1 had no roll-ups, 2 had them per hour and class
APPLICATION = 0x42466F55
PARTIES = ("key", "user", "team", "customer")
TARGETS = ("model", "provider")
CLASS = ("party", "target", "outcome", "status", "code")
DETAIL = ("asked", "stream", "source", "tier", "speed", "geo", "prices", "agent", "provider_key")
TOKENS = ("in_fresh", "in_cache_read", "in_cache_w5m", "in_cache_w1h", "in_tool", "out_text",
          "out_think")  # fmt: skip
COUNTS = (*TOKENS, "web_searches", "cost", "reserved", "output_limit", "took_ns", "first_byte_ns")
TEXTS = ("request", "session", "upstream_request")
REQUEST = ("at", *COUNTS, *TEXTS)  # after pos, class and detail; the names are the event's own

# A request's id is looked up in every stretch of 4096 positions. An index over all of them would
# touch a page per request at insertion, because ids are random.
STRETCH = "(pos >> 12)"

SCHEMA = f"""
CREATE TABLE progress (
  only INTEGER PRIMARY KEY CHECK (only = 1), next INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0);
CREATE TABLE parties (id INTEGER PRIMARY KEY, {", ".join(PARTIES)}, UNIQUE ({", ".join(PARTIES)}));
CREATE INDEX parties_user ON parties (user);
CREATE TABLE targets (id INTEGER PRIMARY KEY, {", ".join(TARGETS)}, UNIQUE ({", ".join(TARGETS)}));
CREATE TABLE classes (id INTEGER PRIMARY KEY, {", ".join(CLASS)}, UNIQUE ({", ".join(CLASS)}));
CREATE TABLE details (id INTEGER PRIMARY KEY, {", ".join(DETAIL)}, UNIQUE ({", ".join(DETAIL)}));
CREATE TABLE requests (
  pos INTEGER PRIMARY KEY, class INTEGER NOT NULL, detail INTEGER NOT NULL, at INTEGER NOT NULL,
  {", ".join(f"{name} INTEGER NOT NULL" for name in COUNTS)}, {", ".join(TEXTS)}
);
CREATE INDEX requests_id ON requests ({STRETCH}, request);
CREATE TABLE blocks (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL, number INTEGER NOT NULL,
  oldest INTEGER NOT NULL, newest INTEGER NOT NULL, dearest INTEGER NOT NULL,
  keys BLOB NOT NULL, sums BLOB NOT NULL
);
CREATE TABLE rollups (
  first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
  oldest INTEGER NOT NULL, newest INTEGER NOT NULL, cells BLOB NOT NULL
);
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
    if read_only:
        # Readers pass once through many pages: keeping copies would cost more than reading them.
        db.execute("PRAGMA cache_size = -2000")
    else:
        db.execute("PRAGMA cache_size = -32000")
        # A page at the end of a table changes many times; rare checkpoints write it back once.
        db.executescript(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864;"
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
