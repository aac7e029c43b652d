# cython: language_level=3
"""The wire: reads what governance needs out of raw bytes and leaves the rest untouched.

Request bodies (``scan``, ``rewrite``), header lists (``read_head``), answers
(``top_level``) and event streams (``Tap``). A leaf: imports nothing of bifrost.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy


cdef extern from "walk.h":
    enum:
        BF_END, BF_VALUE, BF_KEY, BF_COLON, BF_COMMA, BF_DIGITS, BF_LONG, BF_LITERAL, BF_ESCAPE
        BF_SURROGATE, BF_UTF8, BF_CONTROL, BF_DEEP, BF_TRAILING, BF_NOT_OBJECT, BF_BOM
        BF_DUPLICATE, BF_FIELD, BF_MANY
        BF_MODEL, BF_STREAM, BF_MAX_TOKENS, BF_SERVICE_TIER, BF_SPEED, BF_GEO, BF_MCP
        BF_TYPE, BF_MAX_USES, BF_BUDGET, BF_ROLES
        BF_ROOT, BF_TOOL, BF_FALLBACK, BF_PLAN
        BF_DEPTH, BF_ITEMS, BF_NUMBER
    int64_t BF_NONE

    ctypedef struct bf_input:
        const uint8_t *base
        size_t size, at
        int error

    ctypedef struct bf_text:
        size_t start, end, saved

    ctypedef struct bf_item:
        int role
        bf_text text
        int64_t uses

    ctypedef struct bf_name:
        uint8_t size
        const char *name

    ctypedef struct bf_scan:
        bf_input in_ "in"
        int role, place
        size_t cut_start, cut_end, content, count
        int usage, stream, ttl_1h
        bf_text type
        bf_text *texts
        uint32_t present
        int64_t max_tokens, budget, images, documents, remote
        bf_item *items

    const size_t BF_CAP
    bf_name *bf_names
    void bf_prepare()
    int bf_request(bf_scan *, const void *, size_t)
    int bf_event(bf_scan *, const void *, size_t)
    int bf_cut(bf_scan *, const void *, size_t, const char *, size_t)
    size_t bf_decode(const bf_input *, const bf_text *, uint8_t *)
    bint bf_same(const bf_input *, const bf_text *, const void *, size_t)
    bint bf_reserve(bf_store *, size_t)
    bint bf_append(bf_store *, const void *, size_t)
    const uint8_t *bf_line(const uint8_t *, const uint8_t *)


bf_prepare()


class WireError(ValueError):
    """The bytes are not what their protocol asks for; the text is one sentence for the sender."""


# ---------------------------------------------------------------------------------- request body

cdef dict _REASONS = {
    BF_END: "it ends too early",
    BF_VALUE: "a value was expected",
    BF_KEY: "a key in double quotes was expected",
    BF_COLON: "a colon was expected",
    BF_COMMA: "a comma or the closing bracket was expected",
    BF_DIGITS: "a digit was expected",
    BF_LONG: f"a number has more than {BF_NUMBER} characters",
    BF_LITERAL: "only true, false and null may stand without quotes",
    BF_ESCAPE: "this escape does not exist",
    BF_SURROGATE: "half of a surrogate pair stands alone",
    BF_UTF8: "a string is not UTF-8",
    BF_CONTROL: "a control character in a string is not escaped",
    BF_DEEP: f"it is nested more than {BF_DEPTH} levels deep",
    BF_TRAILING: "something follows the object",
    BF_NOT_OBJECT: "an object was expected",
    BF_BOM: "it starts with a byte order mark",
}
cdef dict _EXPECTED = {
    BF_MODEL: "a string",
    BF_STREAM: "true, false or null",
    BF_MAX_TOKENS: "a whole number from 0 to 9007199254740992 without sign, fraction or exponent",
    BF_SERVICE_TIER: "a string or null",
    BF_SPEED: "a string or null",
    BF_GEO: "a string or null",
    BF_MAX_USES: "at most 9007199254740992",
    BF_BUDGET: "at most 9007199254740992",
}
cdef dict _PLACES = {BF_ROOT: "", BF_TOOL: "tools[].", BF_FALLBACK: "fallbacks[].",
                     BF_PLAN: "thinking."}
cdef frozenset _NO_FIELDS = frozenset()
cdef dict _FIELDS = {0: _NO_FIELDS}  # governed bits of bf_scan.present -> their names, when met


cdef object _error(const bf_scan *s):
    cdef int error = s.in_.error
    if error == BF_MANY:
        return WireError(f"tools and fallbacks name more than {BF_ITEMS} types and models.")
    if error != BF_DUPLICATE and error != BF_FIELD:
        return WireError(f"The body is not valid JSON: {_REASONS[error]} at byte {s.in_.at}.")
    name = _PLACES[s.place] + bf_names[s.role].name.decode()
    if error == BF_DUPLICATE:
        return WireError(f"{name} is given twice, again at byte {s.in_.at}.")
    return WireError(f"{name} must be {_EXPECTED[s.role]} (byte {s.in_.at}).")


cdef frozenset _fields(uint32_t present, bint advisor):
    cdef uint32_t governed = (<uint32_t>2 << BF_MCP) - (<uint32_t>1 << BF_SERVICE_TIER)
    cdef uint32_t bits = (present & governed) | (<uint32_t>advisor << 31)
    known = _FIELDS.get(bits)
    if known is None:
        roles = range(BF_SERVICE_TIER, BF_MCP + 1)
        names = [bf_names[role].name.decode() for role in roles if bits >> role & 1]
        known = _FIELDS[bits] = frozenset(names + ["advisor"] if advisor else names)
    return known


cdef str _text(const bf_input *source, const bf_text *text):
    """The checked string content as str, None for a text that was never set."""
    cdef size_t size = text.end - text.start
    cdef uint8_t *room
    if not text.end:
        return None
    if not text.saved:
        return PyUnicode_DecodeUTF8(<const char *>source.base + text.start, size, NULL)
    room = <uint8_t *>malloc(size)
    if room is NULL:
        raise MemoryError
    try:
        size = bf_decode(source, text, room)
        return PyUnicode_DecodeUTF8(<const char *>room, size, NULL)
    finally:
        free(room)


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class Scan:
    """What a Messages request asks for that governance must know; see the stub for each field."""

    def __cinit__(self):
        self.fields = _NO_FIELDS
        self.tool_types = self.tool_models = self.tool_max_uses = self.fallback_models = ()


cdef int _take_items(Scan self, const bf_scan *s) except -1:
    cdef list types = [], models = [], uses = [], fallbacks = []
    cdef bint advisor = False
    cdef const bf_item *item
    cdef size_t i
    for i in range(s.count):
        item = s.items + i
        name = _text(&s.in_, &item.text)
        if item.role == BF_TYPE:
            advisor |= (<str>name).startswith("advisor")
            types.append(name)
            uses.append(None if item.uses == BF_NONE else item.uses)
        elif item.role == BF_MODEL:
            advisor = True          # whatever it is called: a tool that runs on another model
            models.append(name)
        else:
            fallbacks.append(name)
    self.tool_types, self.tool_models = tuple(types), tuple(models)
    self.tool_max_uses, self.fallback_models = tuple(uses), tuple(fallbacks)
    self.fields = _fields(s.present, advisor)
    return 0


def scan(bytes body not None) -> Scan:
    """Checks a Messages request body and picks out what governance must know, in one pass.

    The body must be one JSON object in strict RFC 8259 form and UTF-8, at most 512 levels deep.
    Raises ``WireError`` naming the byte or the field if it is not, if a field that is read here
    has the wrong type, or if it is given twice.
    """
    cdef bf_scan s
    cdef Scan found
    cdef bf_text *texts = s.texts
    try:
        if not bf_request(&s, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)):
            raise _error(&s)
        found = Scan.__new__(Scan)
        found.size = PyBytes_GET_SIZE(body)
        found.stream, found.ttl_1h = s.stream, s.ttl_1h
        found.images, found.documents, found.remote = s.images, s.documents, s.remote
        if texts[BF_MODEL].end:
            found.model = _text(&s.in_, &texts[BF_MODEL])
            found.model_start, found.model_end = texts[BF_MODEL].start - 1, texts[BF_MODEL].end + 1
        if texts[BF_MAX_TOKENS].end:
            found.max_tokens = s.max_tokens
            found.max_tokens_start = texts[BF_MAX_TOKENS].start
            found.max_tokens_end = texts[BF_MAX_TOKENS].end
        if s.budget != BF_NONE:
            found.thinking_budget = s.budget
        found.service_tier = _text(&s.in_, &texts[BF_SERVICE_TIER])
        found.speed = _text(&s.in_, &texts[BF_SPEED])
        found.inference_geo = _text(&s.in_, &texts[BF_GEO])
        if s.count:
            _take_items(found, &s)
        else:
            found.fields = _fields(s.present, False)
        return found
    finally:
        free(s.items)


cdef dict _ESCAPES = {c: f"\\u{c:04x}" for c in range(32)} | {34: '\\"', 92: "\\\\"}


def rewrite(bytes body not None, Scan scan not None, str model, max_tokens) -> bytes:
    """The body with its model and its max_tokens replaced where given, no other byte changed.

    ``scan`` must come from this very body. Raises ``WireError`` when the body has no such field,
    ``ValueError`` when the scan belongs to another body or ``max_tokens`` is negative.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body), first, second, at
    cdef bytes name = b"", number = b"", made, one, two
    cdef Py_ssize_t starts[2]
    cdef Py_ssize_t ends[2]
    cdef char *out
    cdef const char *source = PyBytes_AS_STRING(body)
    if model is None and max_tokens is None:
        return body
    if scan.size != size:
        raise ValueError("the scan belongs to another body")
    starts[0] = starts[1] = ends[0] = ends[1] = 0
    if model is not None:
        if scan.model is None:
            raise WireError("The body has no model to replace.")
        name = ('"' + model.translate(_ESCAPES) + '"').encode()
        starts[0], ends[0] = scan.model_start, scan.model_end
    if max_tokens is not None:
        if scan.max_tokens is None:
            raise WireError("The body has no max_tokens to replace.")
        if max_tokens < 0:
            raise ValueError("max_tokens must not be negative")
        number = b"%d" % max_tokens
        starts[1], ends[1] = scan.max_tokens_start, scan.max_tokens_end
    first, second = (0, 1) if starts[0] <= starts[1] else (1, 0)
    one, two = (name, number) if first == 0 else (number, name)
    made = PyBytes_FromStringAndSize(
        NULL, size + len(name) + len(number) - (ends[0] - starts[0]) - (ends[1] - starts[1]))
    out = PyBytes_AS_STRING(made)
    memcpy(out, source, starts[first])
    at = starts[first]
    memcpy(out + at, PyBytes_AS_STRING(one), len(one))
    at += len(one)
    memcpy(out + at, source + ends[first], starts[second] - ends[first])
    at += starts[second] - ends[first]
    memcpy(out + at, PyBytes_AS_STRING(two), len(two))
    at += len(two)
    memcpy(out + at, source + ends[second], size - ends[second])
    return made


def top_level(bytes body not None, str name not None) -> bytes | None:
    """The raw value of a key of a JSON object, the last one if it is given twice.

    None if there is no such key or the body is not one whole JSON object; the bytes inside
    strings are not checked, so that odd text cannot hide a usage.
    """
    cdef bytes wanted = name.encode()
    cdef size_t size = 0
    cdef const char *found = cut(body, PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted), &size)
    return None if found == NULL else PyBytes_FromStringAndSize(found, size)


cdef const char *cut(bytes body, const char *name, size_t name_size, size_t *size) noexcept:
    """The same for compiled leaves: where it is inside the body, NULL if it is not there."""
    cdef bf_scan s
    if not bf_cut(&s, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), name, name_size):
        return NULL
    if not s.cut_end:
        return NULL
    size[0] = s.cut_end - s.cut_start
    return PyBytes_AS_STRING(body) + s.cut_start


# ------------------------------------------------------------------------------------------ heads

cdef extern from "head.h":
    enum:
        FORWARD, DROP, HOP, X_BF_VK, AUTHORIZATION, X_API_KEY, X_GOOG_API_KEY, API_KEY, LENGTH
        ENCODING, REQUEST_ID, SESSION, AGENT_SESSION, VERSION, BETA, USER_AGENT
    ctypedef struct head_rule:
        pass
    const head_rule *head_requests
    const head_rule *head_request_starts
    int head_role(const head_rule *, const head_rule *, const char *, size_t)
    bint head_lower(const char *, size_t, char *)
    bint head_clean(const char *, size_t)
    bint head_key(int, const char **, size_t *)

cdef frozenset _ID_BYTES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")


cdef set named(list headers):
    """The header names, in lower case, that Connection headers list; None when it is no matter."""
    cdef set names = None
    cdef bytes name, value
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            for token in value.lower().split(b","):
                token = token.strip(b" \t")
                if token and token not in (b"keep-alive", b"close"):
                    names = names or set()
                    names.add(token)
    return names


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class Head:
    """What a request's headers say to the gateway, and the lines that go on; see the stub."""

    cdef int _take(self, int role, bytes value) except -1:
        cdef const char *key = PyBytes_AS_STRING(value)
        cdef size_t size = PyBytes_GET_SIZE(value)
        if X_BF_VK <= role <= API_KEY:
            if (self.rank == 0 or role < self.rank) and head_key(role, &key, &size):
                self.credential, self.rank = key[:size], role
            self.foreign_credential = self.credential is None
        elif role == LENGTH:
            return self._take_length(value.strip(b" \t"))
        elif role == ENCODING:
            value = value.strip(b" \t").lower()
            if value and value != b"identity":
                past = self.content_encoding
                self.content_encoding = past + b", " + value if past else value
        elif role == REQUEST_ID:
            if self.request_id is None and 1 <= len(value) <= 128 and _ID_BYTES.issuperset(value):
                self.request_id = value
        elif role == SESSION or role == AGENT_SESSION:
            if value and (self.session_rank == 0 or role < self.session_rank):
                self.session, self.session_rank = value, role
        elif role == VERSION:
            self.anthropic_version = self.anthropic_version or value
        elif role == BETA:
            past = self.anthropic_beta
            self.anthropic_beta = past + b"," + value if past else value
        elif role == USER_AGENT:
            self.user_agent = self.user_agent or value
        return 0

    cdef int _take_length(self, bytes value) except -1:
        if not value.isdigit() or len(value) > 18:
            raise WireError("The content-length header is not a whole number.")
        length = int(value)
        if self.content_length is not None and self.content_length != length:
            raise WireError("Two content-length headers differ.")
        self.content_length = length
        return 0


def read_head(headers not None) -> Head:
    """Reads ASGI request headers and makes the header lines that may go to a provider.

    Raises ``WireError`` when a name is no token, a value holds CR, LF or NUL, the content length
    is not one number, or all lines together exceed 1 MiB.
    """
    cdef Head head = Head.__new__(Head)
    cdef list pairs = list(headers)
    cdef set hops = named(pairs)
    cdef bf_store lines
    lines.base, lines.size, lines.room = NULL, 0, 0
    head.content_encoding = b""
    try:
        for name, value in pairs:
            _forward(head, &lines, hops, name, value)
        head.forward = PyBytes_FromStringAndSize(<char *>lines.base, lines.size)
    finally:
        free(lines.base)
    return head


cdef int _forward(Head head, bf_store *lines, set hops, bytes name, bytes value) except -1:
    """Takes note of one header and adds its line, unless it may not go on."""
    cdef Py_ssize_t size = len(name), length = len(value)
    cdef char *out
    cdef int role
    if not bf_reserve(lines, size + length + 4):
        raise WireError("The headers are longer than 1 MiB.")
    out = <char *>lines.base + lines.size
    if not head_lower(PyBytes_AS_STRING(name), size, out):
        raise WireError(f"{name[:100]!r} is not a header name.")
    if not head_clean(PyBytes_AS_STRING(value), length):
        raise WireError(f"The {name.decode()} header holds a line end or a NUL.")
    role = head_role(head_requests, head_request_starts, out, size)
    if role >= X_BF_VK:
        head._take(role, value)
    if role != FORWARD and role < AGENT_SESSION or hops is not None and out[:size] in hops:
        return 0
    memcpy(out + size, b": ", 2)
    memcpy(out + size + 2, PyBytes_AS_STRING(value), length)
    memcpy(out + size + 2 + length, b"\r\n", 2)
    lines.size += size + length + 4
    return 0


# ----------------------------------------------------------------------------------------- stream

@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Tap:
    """Reads an Anthropic event stream as it passes, chunk by chunk; takes any bytes, never raises.

    Keeps at most 1 MiB of a line and of an event; a longer one is not read and sets ``overflow``.
    """

    def __cinit__(self):
        self.boundary = True

    def __dealloc__(self):
        free(self.line.base)
        free(self.data.base)

    cpdef int feed(self, bytes chunk) except -1:
        """Reads the next bytes of the stream, cut anywhere."""
        if chunk is None:
            raise TypeError("a chunk is bytes")
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(chunk)
        cdef const uint8_t *end = p + PyBytes_GET_SIZE(chunk)
        cdef const uint8_t *stop
        if p == end:
            return 0
        self.received += end - p
        if self.after_return and p[0] == 10:
            p += 1
        self.after_return = False
        while p < end:
            stop = bf_line(p, end)
            if stop == end:
                self._keep(p, end - p)
                break
            if self.line.size or self.skipping:
                self._keep(p, stop - p)
                self._end_kept()
            else:
                self._line(p, stop - p, False)
            p = stop + 1
            if stop[0] == 13:
                self.after_return = p == end
                if p < end and p[0] == 10:
                    p += 1
        if self.has_data:
            self._hold()
        return 0

    def finish(self) -> None:
        """Takes what is left at the end of the stream as if it were complete."""
        cdef bint boundary = self.boundary
        if self.line.size or self.skipping:
            self._end_kept()
        self._dispatch()
        self.boundary, self.after_return = boundary, False

    cdef void _keep(self, const uint8_t *p, size_t size) noexcept:
        """Adds to the line that the chunk's end cut; of one too long it keeps the beginning."""
        self.boundary = False
        if self.skipping:
            return
        if not bf_append(&self.line, p, size):
            self.skipping = True
            if self.line.size < 8:
                bf_append(&self.line, p, 8 if size > 8 else size)

    cdef void _end_kept(self) noexcept:
        cdef size_t size = self.line.size
        cdef bint skipped = self.skipping
        self.line.size, self.skipping = 0, False
        self._line(self.line.base, size, skipped)
        if self.has_data:
            self._hold()

    cdef void _line(self, const uint8_t *p, size_t size, bint skipped) noexcept:
        """One whole line without its end: a field of the event, a comment, or the event's end."""
        cdef size_t start
        if size > BF_CAP:
            skipped = True
        self.overflow |= skipped
        if not self.begun:
            self.begun = True
            if size >= 3 and not memcmp(p, b"\xef\xbb\xbf", 3):
                p += 3
                size -= 3
        self.boundary = size == 0
        if size == 0:
            self._dispatch()
        elif size >= 4 and not memcmp(p, b"data", 4) and (size == 4 or p[4] == 58):
            if skipped:
                self.broken = True
                size = 4
            start = 4 if size == 4 else 6 if size > 5 and p[5] == 32 else 5
            self._data(p + start, size - start)

    cdef void _data(self, const uint8_t *p, size_t size) noexcept:
        if not self.has_data:
            self.has_data, self.whole, self.whole_size = True, p, size
            return
        self._hold()
        if not (bf_append(&self.data, b"\n", 1) and bf_append(&self.data, p, size)):
            self.overflow = self.broken = True
        self.whole, self.whole_size = self.data.base, self.data.size

    cdef void _hold(self) noexcept:
        """Moves the event's data so far out of the chunk or line that is about to go."""
        if self.whole != self.data.base:
            self.data.size = 0
            if not bf_append(&self.data, self.whole, self.whole_size):
                self.overflow = self.broken = True
            self.whole, self.whole_size = self.data.base, self.data.size

    cdef void _dispatch(self) noexcept:
        if self.has_data:
            self.events += 1
            if not self.broken:
                self._event()
        self.has_data = self.broken = False

    cdef void _event(self) noexcept:
        cdef bf_scan s
        cdef const char *data = <const char *>self.whole
        if not bf_event(&s, data, self.whole_size) or not s.type.end:
            return
        if bf_same(&s.in_, &s.type, b"content_block_delta", 19):
            self.output_bytes += s.content
        elif bf_same(&s.in_, &s.type, b"message_start", 13):
            if self.start is None:
                self.start = data[:self.whole_size]
        elif bf_same(&s.in_, &s.type, b"message_delta", 13):
            if s.usage:
                self.delta = data[:self.whole_size]
        elif bf_same(&s.in_, &s.type, b"error", 5):
            if self.error is None:
                self.error = data[:self.whole_size]
        elif bf_same(&s.in_, &s.type, b"message_stop", 12):
            self.stopped = True
