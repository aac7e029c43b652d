from libc.stdint cimport int64_t

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
