"""Compiles the Cython leaves of ``bifrost/_fast``; everything else is in pyproject.toml.

``BIFROST_ANNOTATE=1`` writes Cython's annotated HTML, ``BIFROST_DEBUG=1`` keeps symbols.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("BIFROST_DEBUG") == "1"
libraries = {"home": ["dl"], "digest": ["dl"]}
for holder in ("state", "accounts", "outbox", "gate"):  # of the ledger's lock
    libraries[holder] = ["pthread"]
modules = [
    Extension(
        f"bifrost._fast.{path.stem}",
        [path.as_posix()],
        libraries=libraries.get(path.stem, []),
        extra_compile_args=["-Og", "-g"] if debug else ["-O3", "-g0"],
        extra_link_args=[] if debug else ["-Wl,-s"],
        depends=[header.as_posix() for header in sorted(Path("bifrost/_fast").glob("*.h"))],
    )
    for path in sorted(Path("bifrost/_fast").glob("*.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        modules,
        nthreads=os.cpu_count() or 1,
        annotate=os.environ.get("BIFROST_ANNOTATE") == "1",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "embedsignature": True,
        },
    ),
)
