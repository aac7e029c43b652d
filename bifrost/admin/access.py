"""Who may ask: the admin token, and a limit on attempts to guess it."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.datastructures import Headers

from bifrost.admin.problems import Problem
from bifrost.admin.table import OWN_KEY, PERMISSIONS, PUBLIC, Operation
from bifrost.governance import admin_token
from bifrost.governance.directory import Directory

BURST = 10  # wrong tokens that one address may send at once
REFILL_S = 6.0  # and one more after each such time
MOST_ADDRESSES = 4096
_REALM = 'Bearer realm="bifrost-admin"'
CHALLENGE = {"www-authenticate": _REALM}
REJECTED = {"www-authenticate": _REALM + ', error="invalid_token"'}


class Attempts:
    """Wrong credentials per address, in this process."""

    def __init__(self) -> None:
        # When each address will have used up nothing any more (a leaky bucket), in seconds.
        self._full: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long the address has to wait before its next attempt is looked at; 0: not at all."""
        over = self._full.get(address, 0.0) - time.monotonic() - (BURST - 1) * REFILL_S
        return max(0.0, over)

    def failed(self, address: str) -> None:
        """Notes a wrong credential."""
        now = time.monotonic()
        self._full[address] = max(now, self._full.pop(address, now)) + REFILL_S
        while len(self._full) > MOST_ADDRESSES:
            self._full.popitem(last=False)


class Access:
    """Lets requests in or raises the Problem that says why not."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._attempts = Attempts()

    def require(self, operation: Operation, headers: Headers, address: str) -> None:
        """Raises Problem 401, 403 or 429 unless the credential may do the operation."""
        if operation.permission in (PUBLIC, OWN_KEY):
            return
        if operation.permission not in self._permissions(headers, address):
            raise Problem(403, f"This needs the permission {operation.permission}.")

    def _permissions(self, headers: Headers, address: str) -> frozenset[str]:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Problem(
                401,
                "Send the admin token as 'Authorization: Bearer bf-admin-…'; it was printed at the"
                " first start, `bifrost admin-token --rotate` makes a new one.",
                headers=CHALLENGE,
            )
        wait = self._attempts.wait_s(address)
        if wait > 0:
            raise Problem(
                429,
                "Too many wrong tokens came from this address; wait before the next one.",
                headers={"retry-after": str(int(wait) + 1)},
            )
        if not admin_token.is_valid(self._directory, token.encode("utf-8", "replace")):
            self._attempts.failed(address)
            raise Problem(
                401,
                "This is not the admin token of this gateway; `bifrost admin-token --rotate` makes"
                " a new one.",
                headers=REJECTED,
            )
        return PERMISSIONS
