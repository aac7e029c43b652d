from libc.stdint cimport int64_t

from .call cimport Call
from .density cimport Density
from .gate cimport Gate, Plan
from .keyring cimport Keyring
from .meters cimport Meter
from .tariff cimport Ceiling, bf_tokens
from .wire cimport Scan


cdef class LaneBase:
    cdef bytes prefix           # of its events: {"type":"model", ... without the closing brace
    cdef bytes served           # ,"model":"...","provider_key":"..." when all is as expected
    cdef readonly Plan plan
    cdef readonly Density density
    cdef Ceiling ceiling
    cdef dict tariffs
    cdef tuple said             # (tier, speed, region) of the last answer, a key of the tariffs
    cdef Meter meter            # of its model
    cdef int64_t context        # tokens
    cdef public str model
    cdef str priced             # the name of its price, the model's own or one for its region
    cdef readonly str geo       # where it serves whatever is asked for, if the price depends on it
    # how a request of it is addressed, and what its client is told of it
    cdef public object host
    cdef public str renamed     # the model's name at the provider, None if it is the client's
    cdef public bytes start     # of the request line, up to the path
    cdef public list signed     # by provider key: the rest of that line, and lines up to our id
    cdef public bytes shown     # header lines for the client


cdef class Desk:
    cdef Gate gate
    cdef Keyring keyring
    cdef public Meter overhead
    cdef public long long generation

    cpdef bint admit(self, Call call) except -1
    cpdef int hold(self, Call call, LaneBase lane, int64_t amount, int64_t input_tokens,
                   int64_t output_tokens, int64_t since_ns) except -1
    cpdef void finish(self, Call call) noexcept
    cpdef int64_t settle(self, Call call, usage, str outcome, price) except -1
    cdef int64_t settle_whole(self, Call call, bytes body) except? -2
    cdef int64_t _book(self, Call call, LaneBase lane, Scan scan, str served, str source,
                       tuple said, bytes further, const bf_tokens *tokens, int64_t tool,
                       int64_t searches, int64_t cost, str outcome, int64_t since) except -1
