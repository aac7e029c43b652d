"""Which tests go through a gateway's listener: found in what they and their fixtures call.

A test that starts ``bifrost serve``, or is given one by a fixture, is marked ``gateway``: it is run
against each listener. One that names listeners by itself is marked ``listeners``: once is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

SERVE, OPTION = "serve", "--listener"


def words(function: Any) -> set[str]:
    """The texts in a function and in all of the tests' own code that it refers to."""
    found: set[str] = set()
    seen: dict[int, Any] = {}  # kept, so that no other object gets the same id
    waiting = [function]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, str):
            found.add(one)
        elif isinstance(one, list | tuple | frozenset | dict):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, type):
            waiting += [dict(vars(base)) for base in one.__mro__ if _ours(base)]
        elif inner := getattr(one, "__wrapped__", None) or getattr(one, "__func__", None):
            waiting.append(inner)
        elif isinstance(one, FunctionType) and _ours(one):
            waiting += _mentioned(one)
    return found


def _ours(one: Any) -> bool:
    return str(getattr(one, "__module__", "")).startswith("tests.")


def _mentioned(function: FunctionType) -> Iterator[Any]:
    for code in _codes(function.__code__):
        yield from (each for each in code.co_consts if isinstance(each, str | tuple | frozenset))
        for name in (*code.co_names, *code.co_freevars):
            known = function.__globals__.get(name)
            if isinstance(known, ModuleType):  # tests.crashes.Lane: any of its names may be meant
                if known.__name__.startswith("tests."):
                    yield from (vars(known)[each] for each in code.co_names if each in vars(known))
            elif known is not None:
                yield known
    yield from (cell.cell_contents for cell in function.__closure__ or ())


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def marks(functions: list[Any]) -> set[str]:
    """The marks of a test that consists of these functions, its own and its fixtures'."""
    known: set[str] = set()
    for function in functions:
        known |= words(function)
    if SERVE not in known:
        return set()
    return {"gateway", "listeners"} if OPTION in known else {"gateway"}
