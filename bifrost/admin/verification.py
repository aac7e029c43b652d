"""Verification of the audit log over HTTP, for whoever cannot reach its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bifrost.admin.bodies import parsed
from bifrost.admin.problems import invalid
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit.cosigners import Cosigner
from bifrost.audit.log import FOLDER
from bifrost.audit.notes import NoteError, PublicKey
from bifrost.audit.verdict import Damaged, Finding, Verdict
from bifrost.audit.verify import Verification
from bifrost.config.fields import Spec
from bifrost.errors import NotFound, StoreError

Note = Annotated[str, Meta(max_length=16_384, extra={"lines": True})]


class VerifyBody(Spec, frozen=True, kw_only=True):
    """What is to be verified, and with what that was kept elsewhere."""

    mode: Annotated[
        Literal["whole", "quick", "since"],
        Meta(
            description="Every entry; signatures, tree and some entries; or what is newer than "
            "the checkpoint."
        ),
    ] = "whole"
    checkpoint: Annotated[
        Note | None, Meta(description="A checkpoint you kept, as a signed note.")
    ] = None
    witnesses: Annotated[
        tuple[Note, ...],
        Meta(
            max_length=16,
            description="Public keys of witnesses that must have cosigned the checkpoint.",
        ),
    ] = ()
    public_key: Annotated[Note | None, Meta(description="The public key you kept.")] = None


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, what it proves and what it does not. ``first_bad`` is the first entry that
    is not as it was signed; ``not_covered`` entries are newer than the newest checkpoint."""

    intact: bool
    origin: str
    key: str
    size: int
    root: str
    checked: int
    not_covered: int
    minimum: int
    unread: int
    first_bad: int | None
    findings: tuple[Finding, ...]
    proved: tuple[str, ...]
    not_proved: tuple[str, ...]


def verify(house: House, ask: Ask) -> Reply:
    """Verifies the log's files, in this process."""
    body = parsed(VerifyBody, ask.document)
    if body.mode == "since" and body.checkpoint is None:
        raise invalid(422, [("checkpoint", "missing; `since` reads what is newer than it")])
    if body.witnesses and not body.checkpoint:
        raise invalid(422, [("checkpoint", "missing; witnesses have to have cosigned one")])
    house.recorder.access(f"verify-{body.mode}", 0, 0)
    verdict = _verdict(house.data_dir / FOLDER, body)
    told = msgspec.to_builtins(verdict)
    return Reply(value=msgspec.convert({"intact": verdict.intact, **told}, AuditVerdict))


def _verdict(folder: Path, body: VerifyBody) -> Verdict:
    try:
        key = PublicKey.parse(body.public_key) if body.public_key else None
    except NoteError as error:
        raise invalid(422, [("public_key", str(error))]) from None
    try:
        witnesses = [Cosigner.parse(one) for one in body.witnesses]
    except NoteError as error:
        raise invalid(422, [("witnesses", str(error))]) from None
    try:
        verification = Verification(
            folder, kept=body.checkpoint or None, key=key, witnesses=witnesses
        )
    except NoteError as error:
        raise invalid(422, [("checkpoint", str(error))]) from None
    except Damaged:
        raise
    except StoreError as error:  # nothing is signed
        raise NotFound(str(error)) from None
    if body.mode == "quick":
        return verification.quick()
    if body.mode == "since":
        return verification.since(processes=1)
    return verification.whole(processes=1)


def operations() -> list[Operation]:
    """The row of the verification."""
    return [
        Operation(method="POST", path="/api/audit-logs/verify", name="verify_audit_logs",
                  summary="Tell whether anything recorded was changed, removed or moved.",
                  permission="audit:read", handler=verify, body=VerifyBody, answer=AuditVerdict,
                  refuses=(404,)),
    ]  # fmt: skip
