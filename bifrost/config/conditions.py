"""Conditions: expressions in CEL (Common Expression Language) about a request, compiled, checked.

The library is an extra of the package (``rules``) and loaded only where a condition stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# Names that an expression gives to the parts of a list or map it looks through.
_BOUND = re.compile(r"\.(?:all|exists|exists_one|filter|map)\s*\(\s*([A-Za-z_]\w*)\s*,")
# What an expression may ask about, each with an example of its type.
FACTS: Mapping[str, Any] = {
    "model": "claude-sonnet-4-5",
    "api": "messages",
    "stream": True,
    "max_tokens": 32_000,
    "input_bytes": 60_000,
    "headers": {},
    "session": "",
    "key": "",
    "user": "",
    "team": "",
    "customer": "",
    "budget_used": 0.5,
}


class Condition(NamedTuple):
    """A compiled expression, and which facts it asks about."""

    program: Any
    facts: frozenset[str]

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether it is true. Raises ValueError, saying why, where that cannot be said."""
        try:
            return self.program.execute(dict(facts)) is True
        except KeyError as error:  # a header that is not there: ask for it with "in" or has()
            raise ValueError(f"there is no {error}") from None
        except (TypeError, RuntimeError, ValueError) as error:
            raise ValueError(str(error).splitlines()[0]) from None


def condition(text: str) -> Condition:
    """Compiles an expression. Raises ValueError, saying what is wrong with it."""
    try:
        import cel
    except ImportError:
        raise ValueError(
            "conditions need a library: pip install 'bifrost-gateway[rules]'"
        ) from None
    try:
        program = cel.compile(text)
    except ValueError as error:
        lines = str(error).split("Syntax error:")
        raise ValueError(f"not an expression of CEL:{lines[-1].splitlines()[0]}") from None
    asked = frozenset(program.variables()) - set(_BOUND.findall(text))
    unknown = sorted(asked - FACTS.keys())
    if unknown:
        raise ValueError(f"there is no {unknown[0]!r}; known are {', '.join(FACTS)}")
    found = Condition(program, asked)
    try:
        example = program.execute(dict(FACTS))
    except KeyError:
        return found
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if not isinstance(example, bool):
        raise ValueError("it must be true or false, such as 'budget_used > 0.8'")
    return found
