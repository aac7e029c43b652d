from libc.stdint cimport int64_t, uint8_t

cdef extern from "store.h":
    ctypedef struct bf_store:
        uint8_t *base
        size_t size, room

# What other compiled leaves read of a request; wire.pyi says what each field means.

cdef class Scan:
    cdef readonly str model, service_tier, speed, inference_geo
    cdef readonly bint stream, ttl_1h
    cdef readonly object max_tokens, thinking_budget
    cdef readonly Py_ssize_t size, model_start, model_end, max_tokens_start, max_tokens_end
    cdef readonly frozenset fields
    cdef readonly int64_t images, documents, remote
    cdef readonly tuple tool_types, tool_models, tool_max_uses, fallback_models


cdef class Head:
    cdef readonly bytes credential, content_encoding, request_id, session
    cdef readonly bytes anthropic_version, anthropic_beta, user_agent, forward
    cdef readonly bint foreign_credential
    cdef readonly object content_length
    cdef int rank, session_rank

    cdef int _take(self, int role, bytes value) except -1
    cdef int _take_length(self, bytes value) except -1


cdef set named(list headers)
cdef const char *cut(bytes body, const char *name, size_t name_size, size_t *size) noexcept


cdef class Tap:
    cdef readonly bytes start, delta, error
    cdef readonly bint stopped, overflow, boundary
    cdef readonly int64_t output_bytes, events, received
    cdef bf_store line, data       # a line cut by a chunk's end; data of an event likewise
    cdef const uint8_t *whole      # data of the event, inside the chunk or in `data`
    cdef size_t whole_size
    cdef bint has_data, broken     # broken: part of the event was too long to keep
    cdef bint skipping, after_return, begun

    cpdef int feed(self, bytes chunk) except -1
    cdef void _keep(self, const uint8_t *p, size_t size) noexcept
    cdef void _end_kept(self) noexcept
    cdef void _line(self, const uint8_t *p, size_t size, bint skipped) noexcept
    cdef void _data(self, const uint8_t *p, size_t size) noexcept
    cdef void _hold(self) noexcept
    cdef void _dispatch(self) noexcept
    cdef void _event(self) noexcept
