# cython: freethreading_compatible=True
"""How many tokens a model makes of text, learned from its answers by all workers together.

Before anything is known the densest text is assumed for input, and 3.6 bytes a token for output.
"""

import fcntl
import hashlib
import mmap
import os

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cdef extern from "density.h" nogil:
    bf_density *bf_density_claim(bf_density *cells, uint64_t count, uint64_t name)
    void bf_density_learn(bf_density *cell, int64_t per_kib)
    void bf_density_hear(bf_density *cell, uint64_t size, uint64_t tokens, uint64_t memory)
    int64_t bf_density_samples(const bf_density *cell)
    int64_t bf_density_seen(const bf_density *cell)
    uint64_t bf_density_output(const bf_density *cell)

PER_KIB = BF_PER_KIB
OVERHEAD = BF_OVERHEAD
cdef enum:
    CELLS = 2048                # models of a data directory; what comes later is learned alone
    TELLING = 4096              # bytes of a body whose density says something
    ENOUGH = 32                 # of them before it is believed
    LEAST = 128                 # tokens per 1,024 bytes
    HEARD = 400                 # output tokens of whole streams before their text is believed
    MEMORY = 1 << 20            # output tokens after which older streams count half
    LONGEST = 1 << 24           # tokens of one answer that are believed


@cython.final
cdef class Density:
    """What is known of one model.

    Input: 512 tokens of 1,024 bytes until 32 plain requests of 4 kB or more were seen; then a
    quarter more than the densest of all of them, never above 512. Output: how many bytes of text it
    writes with how many tokens on average, for streams that end without a word on their tokens.
    """

    def __cinit__(self):
        memset(&self.own, 0, sizeof(bf_density))
        self.cell = &self.own

    cdef int64_t most_per_kib(self) noexcept:
        cdef int64_t seen
        if bf_density_samples(self.cell) < ENOUGH:
            return BF_PER_KIB
        seen = bf_density_seen(self.cell)
        if not 0 <= seen <= BF_PER_KIB:
            return BF_PER_KIB
        return min(max(seen + seen // 4, LEAST), BF_PER_KIB)

    @property
    def per_kib(self):
        """Tokens of 1,024 bytes of input, at most."""
        return self.most_per_kib()

    @property
    def output(self):
        """(bytes, tokens): how much text came with how many tokens; None if that is not known."""
        cdef uint64_t word = bf_density_output(self.cell)
        cdef uint64_t size = word >> 32, tokens = word & 0xffffffff
        if tokens < HEARD or not 2 * tokens <= size <= 8 * tokens:
            return None
        return size, tokens

    cpdef void learn(self, int64_t size, int64_t tokens) noexcept:
        """A plain request of ``size`` bytes was ``tokens`` of input."""
        if size >= TELLING:
            bf_density_learn(self.cell, (max(tokens - BF_OVERHEAD, 0) * 1024 + size - 1) // size)

    cpdef void hear(self, int64_t size, int64_t tokens) noexcept:
        """A whole stream brought ``size`` bytes of text for ``tokens``.

        Text is 2 to 8 bytes a token; outside of that most was hidden thinking, or is no text.
        """
        if 0 < tokens < LONGEST and 2 * tokens <= size <= 8 * tokens:
            bf_density_hear(self.cell, size, tokens, MEMORY)


@cython.final
cdef class Densities:
    """The densities of all models, in a file that every process of a data directory maps.

    Without a ``path``, or where it cannot be written, they are this process's own: they spare money
    held and sharpen an estimate, and nobody is refused for the lack of them.
    """

    def __init__(self, path=None):
        cdef unsigned char[::1] view
        self.found = {}
        self.map = None if path is None else _mapped(path)
        if self.map is None:
            self.map = mmap.mmap(-1, CELLS * sizeof(bf_density))
        view = self.map
        self.cells = <bf_density *>&view[0]

    def find(self, str host not None, str model not None):
        """The density of a host's model."""
        cdef Density density
        cdef bf_density *cell
        found = self.found.get((host, model))
        if found is None:
            found = self.found[host, model] = density = Density()
            name = hashlib.blake2b(f"{host}\0{model}".encode("utf-8", "replace"), digest_size=8)
            cell = bf_density_claim(self.cells, CELLS, int.from_bytes(name.digest()) | 1)
            if cell != NULL:
                density.cell, density.map = cell, self.map
        return found


def _mapped(path):
    """The whole file, zeros where it is new; None where there can be none."""
    cdef Py_ssize_t whole = CELLS * sizeof(bf_density)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        size = os.fstat(fd).st_size
        if size < whole:    # written, not only made longer: a full disk is told now, not by a signal
            os.pwrite(fd, bytes(whole - size), size)
            if os.fstat(fd).st_size < whole:
                return None
        return mmap.mmap(fd, whole)
    except OSError:
        return None
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)      # the map keeps a duplicate of fd, and so the lock
        os.close(fd)
