# cython: freethreading_compatible=True
"""The desk: the usual request, admitted and settled without leaving compiled code.

It knows nothing the rooms do not decide: grants, lanes and tariffs come from them, and whatever is
not usual (a new key, a governed field, a server tool) is left to them. A compiled leaf.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp

from .call cimport Call
from .density cimport BF_OVERHEAD, Density
from .gate cimport Gate, Plan, Ticket
from .keyring cimport GrantBase, Keyring
from .ledger cimport led_ask
from .meters cimport COST, FIRST_BYTE, OUTCOMES, SEARCHES, TOKENS, TOOK, Meter
from .tariff cimport MOST, Ceiling, Tariff, bf_tokens, read_tokens
from .timing cimport now_mono, now_wall
from .wire cimport Head, Scan, cut

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "json_out.h" nogil:
    ctypedef struct out:
        char *at
        char *end
        bint full
    void out_raw(out *, const char *text, size_t size)
    void out_int(out *, int64_t)
    void out_lit(out *, const char *)
    void out_count(out *, const char *name, int64_t)
    void out_string(out *, const char *name, const void *text, size_t size, bint latin)

cdef extern from "account.h" nogil:
    enum:
        AC_INPUT, AC_OUTPUT, AC_READ, AC_WRITTEN, AC_FIVE, AC_HOUR, AC_THINK, AC_SEARCHES, AC_SPLIT
    ctypedef struct ac_text:
        const char *at
        size_t size
    ctypedef struct ac_account:
        int64_t count[8]
        uint32_t given
        ac_text text[3]
    bint ac_read(ac_account *, const char *, size_t)

cdef enum:
    EVENT = 12288               # bytes that the longest event needs, with room to spare
    AGENT = 120                 # bytes of a client's name that are kept
    TEXT = 256                  # bytes of any other word a client or provider chose

OUTCOME = {"ok": 0, "error": 1, "cut": 2, "broken": 3, "unsettled": 4}     # their meters
IMAGE = 5_000                   # tokens: the largest image a model takes, whatever its bytes
cdef int64_t _image = IMAGE
cdef str _ok = "ok"


cpdef int64_t plain_input(int64_t size, int64_t per_kib, int64_t images, int64_t context) noexcept:
    """The most input tokens of a body of ``size`` bytes that holds the whole input itself."""
    return min(size * per_kib // 1024 + BF_OVERHEAD + _image * images, context)


cdef bint _buckets(const ac_account *a, bf_tokens *tokens) noexcept:
    """The disjoint buckets of a plain account, as the metering room's ``_usage`` sorts them."""
    cdef int64_t written = a.count[AC_WRITTEN]
    cdef int64_t think = min(a.count[AC_THINK], a.count[AC_OUTPUT])
    if a.given >> AC_SPLIT & 1:
        written = max(written, a.count[AC_FIVE] + a.count[AC_HOUR])
    tokens.count[0] = a.count[AC_INPUT]
    tokens.count[1] = a.count[AC_READ]
    tokens.count[2] = written - a.count[AC_HOUR]
    tokens.count[3] = a.count[AC_HOUR]
    tokens.count[4] = a.count[AC_OUTPUT] - think
    tokens.count[5] = think
    return True


cdef tuple _said(const ac_account *a):
    """(tier, speed, region) of the answer; None where it says nothing."""
    return (_name(&a.text[0]), _name(&a.text[1]), _name(&a.text[2]))


cdef str _name(const ac_text *text):
    return text.at[:text.size].decode("ascii") if text.size else None


def plain_account(bytes raw not None):
    """(buckets in the order of the rates, web searches, (tier, speed, region)) of a raw ``usage``
    object, or None when it is not plain, or counts no input or no output."""
    cdef ac_account account
    cdef bf_tokens tokens
    if not ac_read(&account, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)):
        return None
    _buckets(&account, &tokens)
    return [n for n in tokens.count], account.count[AC_SEARCHES], _said(&account)


cdef class LaneBase:
    """What the desk must know of a lane: how its events begin, and what its tokens cost.

    ``prefix`` is JSON without its closing brace; ``served`` the members ``,"model":…`` and
    ``,"provider_key":…`` of the usual answer; ``tariffs`` maps (tier, speed, region) of an answer;
    ``meter`` counts what its model does; ``priced`` is the name that its price goes by. ``geo`` is
    where it serves whatever is asked for, if the price depends on it.
    """

    def __init__(self, str model, Plan plan, bytes prefix, bytes served, Ceiling ceiling,
                 dict tariffs, int64_t context, Density density, Meter meter=None,
                 str priced=None, str geo=None):
        self.model = model
        self.priced = priced if priced is not None else model
        self.geo = geo
        self.plan = plan
        self.density = density
        self.prefix = prefix
        self.served = served
        self.ceiling = ceiling
        self.tariffs = tariffs
        self.said = (None, None, None)
        self.context = context
        self.meter = meter


cdef class Desk:
    """Admits and settles over one gate, for the grants of one keyring.

    ``generation`` is the number of the present configuration: lanes of another are not used.
    ``overhead`` is the meter of the time that requests spend here and not with their provider.
    """

    def __init__(self, Gate gate not None, Keyring keyring not None):
        self.gate = gate
        self.keyring = keyring

    cpdef bint admit(self, Call call) except -1:
        """Reserves the worst case of a usual request; False leaves it to the rooms, untouched.

        Raises what ``Gate.admit`` raises.
        """
        cdef int64_t since = now_mono()
        cdef Head head = <Head>call.head
        cdef Scan scan = <Scan>call.scan
        cdef GrantBase grant
        cdef PyObject *found
        if head.credential is None or scan.model is None or scan.max_tokens is None:
            return False
        if scan.fields or scan.tool_types or scan.documents or scan.remote:
            return False
        grant = self.keyring.find(head.credential)
        if grant is None or grant.generation != self.generation:
            return False
        if grant.expires_ns and call.at >= grant.expires_ns:
            return False
        found = PyDict_GetItem(grant.lanes, scan.model)
        if found == NULL or not isinstance(<object>found, LaneBase):
            return False
        cdef LaneBase lane = <LaneBase>found
        cdef int64_t most = plain_input(PyBytes_GET_SIZE(call.body), lane.density.most_per_kib(),
                                        scan.images, lane.context)
        cdef int64_t output = call.output_limit if call.output_limit else scan.max_tokens
        call.grant = grant
        self.hold(call, lane, lane.ceiling.worst(most, output, scan.ttl_1h, 0), most, output, since)
        return True

    cpdef int hold(self, Call call, LaneBase lane, int64_t amount, int64_t input_tokens,
                   int64_t output_tokens, int64_t since_ns) except -1:
        """Holds ``amount`` nano-USD for a call on a lane, with the event in waiting as its note."""
        cdef char note[EVENT]
        cdef led_ask ask
        cdef out o
        cdef Py_ssize_t size
        cdef const char *text
        call.lane = lane
        call.reserved = amount
        o.at, o.end, o.full = note, note + EVENT, False
        out_raw(&o, PyBytes_AS_STRING(lane.prefix), PyBytes_GET_SIZE(lane.prefix))
        out_raw(&o, PyBytes_AS_STRING(lane.served), PyBytes_GET_SIZE(lane.served))
        text = PyUnicode_AsUTF8AndSize(call.request_id, &size)
        out_string(&o, b"request", text, size, False)
        _address(&o, call.client)
        out_lit(&o, b',"at":0,"outcome":"unsettled"}')
        if o.full:
            raise ValueError("the note of a reservation is too long")
        ask.amount, ask.input_tokens, ask.output_tokens = amount, input_tokens, output_tokens
        ask.note, ask.note_size = note, o.at - note
        ask.now_ns = now_wall() if call.place else call.at
        ask.place = call.place
        call.ticket = self.gate.hold(lane.plan, &ask, since_ns)
        return 0

    cpdef int64_t settle(self, Call call, usage, str outcome, price) except -1:
        """Books what a call used (None: nothing), with its event, and spends its ticket; nano-USD.

        ``price(call, usage)`` returns (usage, cost, further members of the event) where tokens
        alone do not say what it costs.
        Raises what ``Gate.settle`` raises.
        """
        cdef int64_t since = now_mono()
        cdef LaneBase lane = <LaneBase>call.lane
        cdef Scan scan = <Scan>call.scan
        cdef bf_tokens tokens
        cdef int64_t cost = 0, searches = 0, tool = 0
        cdef PyObject *tariff
        cdef tuple said = None
        cdef bytes further = b""
        cdef str served = None, source = None
        for i in range(6):
            tokens.count[i] = 0
        call.settled = True
        if usage is not None:
            if lane.geo is not None:
                usage = usage.served_in(lane.geo)
            said = (usage.tier, usage.speed, usage.geo)
            tariff = NULL if usage.iterations or scan.fields else PyDict_GetItem(lane.tariffs, said)
            if tariff == NULL:
                usage, cost, further = price(call, usage)
                said = (usage.tier, usage.speed, usage.geo)
            tool, searches = usage.in_tool, usage.web_searches
            served, source = usage.served_model, usage.source
            read_tokens(usage, &tokens)
            if tariff != NULL:
                cost = (<Tariff>tariff).charge(&tokens, searches)
                if source == "reported":
                    _learn(lane, call, scan, &tokens)
                if call.tap is not None and source == "reported" and tokens.count[5] == 0:
                    lane.density.hear(call.tap.output_bytes, tokens.count[4])
        return self._book(call, lane, scan, served, source, said, further, &tokens, tool, searches,
                          min(cost, MOST), outcome, since)

    cdef int64_t settle_whole(self, Call call, bytes body) except? -2:
        """The same for a whole answer that is as usual; -1, and nothing done, leaves it to the rooms.

        Usual is an answer of status 200 with a plain account, to a request without governed fields.
        """
        cdef int64_t since = now_mono()
        cdef LaneBase lane = <LaneBase>call.lane
        cdef Scan scan = <Scan>call.scan
        cdef ac_account account
        cdef bf_tokens tokens
        cdef PyObject *tariff
        cdef size_t size = 0
        cdef const char *raw
        if call.status != 200 or call.encoding is not None or call.tap is not None or scan.fields:
            return -1
        if lane.geo is not None:
            return -1
        raw = cut(body, b"usage", 5, &size)
        if raw == NULL or not ac_read(&account, raw, size):
            return -1
        if not (_says(lane.said[0], &account.text[0]) and _says(lane.said[1], &account.text[1])
                and _says(lane.said[2], &account.text[2])):
            lane.said = _said(&account)
        tariff = PyDict_GetItem(lane.tariffs, lane.said)
        if tariff == NULL:
            return -1
        _buckets(&account, &tokens)
        _learn(lane, call, scan, &tokens)
        call.settled = True
        return self._book(call, lane, scan, None, "reported", lane.said, b"", &tokens, 0,
                          account.count[AC_SEARCHES],
                          min((<Tariff>tariff).charge(&tokens, account.count[AC_SEARCHES]), MOST),
                          "ok", since)

    cdef int64_t _book(self, Call call, LaneBase lane, Scan scan, str served, str source,
                       tuple said, bytes further, const bf_tokens *tokens, int64_t tool,
                       int64_t searches, int64_t cost, str outcome, int64_t since) except -1:
        cdef char event[EVENT]
        cdef out o
        cdef const int64_t *n = &tokens.count[0]
        o.at, o.end, o.full = event, event + EVENT, False
        out_raw(&o, PyBytes_AS_STRING(lane.prefix), PyBytes_GET_SIZE(lane.prefix))
        if call.key_index or (served is not None and served != lane.model):
            _string(&o, b"model", served or lane.model)
            _string(&o, b"provider_key", lane.host.key_name(call.key_index))
            if (served or lane.model) != lane.priced:
                _string(&o, b"priced", lane.priced)
        else:
            out_raw(&o, PyBytes_AS_STRING(lane.served), PyBytes_GET_SIZE(lane.served))
        out_lit(&o, b',"at":')
        out_int(&o, call.at)
        _string(&o, b"request", call.request_id)
        _string(&o, b"outcome", outcome)
        out_count(&o, b"status", call.status)
        if scan.stream:
            out_lit(&o, b',"stream":true')
        out_count(&o, b"in_fresh", n[0] - tool)
        out_count(&o, b"in_cache_read", n[1])
        out_count(&o, b"in_cache_w5m", n[2])
        out_count(&o, b"in_cache_w1h", n[3])
        out_count(&o, b"in_tool", tool)
        out_count(&o, b"out_text", n[4])
        out_count(&o, b"out_think", n[5])
        out_count(&o, b"web_searches", searches)
        out_count(&o, b"cost", cost)
        out_count(&o, b"reserved", call.reserved)
        out_count(&o, b"output_limit", call.output_limit)
        if said is not None:
            _string(&o, b"tier", said[0])
            _string(&o, b"speed", said[1])
            _string(&o, b"geo", said[2])
            _string(&o, b"source", source)
            out_raw(&o, PyBytes_AS_STRING(further), PyBytes_GET_SIZE(further))
        _client(&o, call.client, <Head>call.head)
        _string(&o, b"upstream_request", call.upstream_request)
        cdef int64_t now = now_mono()
        out_count(&o, b"took_ns", now - call.began)
        if call.first_byte:
            out_count(&o, b"first_byte_ns", call.first_byte - call.began)
        out_lit(&o, b"}")
        if o.full:
            raise ValueError("the event of a request is too long")
        self.gate.book(<Ticket>call.ticket, cost, n[0] + n[1] + n[2] + n[3], n[4] + n[5], event,
                       o.at - event, now_wall(), since)
        if lane.meter is not None:
            _count(lane.meter, call, n, searches, cost, outcome, now)
        return cost

    cpdef void finish(self, Call call) noexcept:
        """The answer is passed on: how long the call was with us and not with its provider."""
        if self.overhead is None or call.broke or call.gone:
            return
        if call.first_byte and call.sent:
            self.overhead.quick(0, call.sent - call.began + now_mono() - call.last_byte)


cdef void _count(Meter meter, Call call, const int64_t *n, int64_t searches, int64_t cost,
                 str outcome, int64_t now) noexcept:
    cdef int64_t *at = meter.at
    cdef int which = 0, i
    if outcome is not _ok:
        which = OUTCOME.get(outcome, 1)
    at[OUTCOMES + which] += 1
    for i in range(6):
        at[TOKENS + i] += n[i]
    at[SEARCHES] += searches
    at[COST] += cost
    meter.slow(TOOK, now - call.began)
    if call.first_byte:
        meter.slow(FIRST_BYTE, call.first_byte - call.began)


cdef inline void _learn(LaneBase lane, Call call, Scan scan, const bf_tokens *tokens) noexcept:
    """How many bytes a token of such a body has, where the body is all there was to read."""
    if not (scan.images or scan.documents or scan.remote or scan.tool_types):
        lane.density.learn(PyBytes_GET_SIZE(call.body), tokens.count[0] + tokens.count[1]
                           + tokens.count[2] + tokens.count[3])


cdef bint _says(str known, const ac_text *text) except -1:
    cdef Py_ssize_t size
    cdef const char *at
    if known is None:
        return text.size == 0
    at = PyUnicode_AsUTF8AndSize(known, &size)
    return <size_t>size == text.size and not memcmp(at, text.at, size)


cdef int _string(out *o, const char *name, str text) except -1:
    """A text member, left out when it is None, cut at TEXT bytes."""
    cdef Py_ssize_t size
    cdef const char *at
    if text is None:
        return 0
    try:
        at = PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
        at = PyUnicode_AsUTF8AndSize(text, &size)
    if size > TEXT:
        size = TEXT
        while size and (at[size] & 0xC0) == 0x80:      # not inside a character
            size -= 1
    out_string(o, name, at, size, False)
    return 0


cdef inline void _address(out *o, bytes client) noexcept:
    if client is not None:
        out_string(o, b"client", PyBytes_AS_STRING(client), min(PyBytes_GET_SIZE(client), TEXT), False)


cdef void _client(out *o, bytes client, Head head) noexcept:
    _address(o, client)
    if head.session is not None:
        out_string(o, b"session", PyBytes_AS_STRING(head.session),
                   min(PyBytes_GET_SIZE(head.session), TEXT), True)
    if head.user_agent is not None:
        out_string(o, b"agent", PyBytes_AS_STRING(head.user_agent),
                   min(PyBytes_GET_SIZE(head.user_agent), AGENT), True)
