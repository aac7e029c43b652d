"""Cosigned checkpoints: a witness's word is taken as the standard has it, and nothing else is."""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from bifrost.audit.cosigners import Cosigner
from bifrost.audit.notes import NoteError
from bifrost.audit.verify import Verification
from tests.administration import Admin, problem
from tests.commands import bifrost
from tests.evidence import Scribe, entry, public, written
from tests.running import RunningGateway, configuration

NAME = "witness.example/w1"
AT = 1_764_200_000  # 2025-11-26T23:33:20Z


class Witness:
    """A witness by the words of C2SP tlog-cosignature, with nothing of ours."""

    def __init__(self, kind: int, name: str = NAME) -> None:
        self.kind, self.name = kind, name
        self._key = Ed25519PrivateKey.generate() if kind == 4 else MLDSA44PrivateKey.generate()
        self.raw = self._key.public_key().public_bytes_raw()
        self.id = sha256(name.encode() + b"\n" + bytes([kind]) + self.raw).digest()[:4]

    @property
    def key(self) -> str:
        """Its public key."""
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.kind]) + self.raw).decode()}"

    def message(self, note: str, at: int) -> bytes:
        """What it signs."""
        text = note[: note.rindex("\n\n") + 1]
        if self.kind == 4:
            return f"cosignature/v1\ntime {at}\n{text}".encode()
        origin, size, root, *_ = text.split("\n")
        hashed = b64decode(root)
        return (
            b"subtree/v1\n\x00"
            + bytes([len(self.name)]) + self.name.encode() + struct.pack(">Q", at)
            + bytes([len(origin)]) + origin.encode() + struct.pack(">QQ", 0, int(size)) + hashed
        )  # fmt: skip

    def cosigned(self, note: str, at: int = AT, *, said: int | None = None) -> str:
        """The note with its signature, made at ``at`` but ``said`` to be of another time."""
        made = self._key.sign(self.message(note, at))
        line = self.id + struct.pack(">Q", at if said is None else said) + made
        return f"{note}\N{EM DASH} {self.name} {b64encode(line).decode()}\n"


@pytest.fixture(params=[4, 6], ids=["ed25519", "ml-dsa-44"])
def witness(request: pytest.FixtureRequest) -> Witness:
    return Witness(request.param)


def note_of(folder: Path) -> str:
    return (folder / "checkpoint").read_text()


def test_a_cosigned_checkpoint_proves_when_its_entries_were_there(
    tmp_path: Path, witness: Witness
) -> None:
    folder = written(tmp_path, 40)
    kept = witness.cosigned(note_of(folder))
    given = {"kept": kept, "key": public(folder), "witnesses": [Cosigner.parse(witness.key)]}
    for verdict in (Verification(folder, **given).whole(processes=1),
                    Verification(folder, **given).quick()):  # fmt: skip
        assert verdict.intact
        [told] = [one for one in verdict.proved if NAME in one]
        assert "at 2025-11-26T23:33:20Z" in told and "were there by then" in told
    both = Witness(4, "witness.example/w2")
    keys = [Cosigner.parse(one.key) for one in (witness, both)]
    verdict = Verification(folder, kept=both.cosigned(kept), witnesses=keys).quick()
    assert sum("cosigned your checkpoint" in one for one in verdict.proved) == 2


def test_one_that_says_no_time_proves_none(tmp_path: Path) -> None:
    folder = written(tmp_path, 4)
    witness = Witness(6)
    given = witness.cosigned(note_of(folder), 0)
    verdict = Verification(folder, kept=given, witnesses=[Cosigner.parse(witness.key)]).quick()
    [told] = [one for one in verdict.proved if NAME in one]
    assert "were there" not in told and " at " not in told


def test_another_beginning_is_found_though_a_witness_cosigned_it(
    tmp_path: Path, witness: Witness
) -> None:
    scribe = Scribe(tmp_path)
    scribe.add([entry(1), entry(2)])
    scribe.sign()
    other = written(tmp_path / "other", 2)
    kept = witness.cosigned(note_of(other))
    verdict = Verification(
        tmp_path / "audit", kept=kept, witnesses=[Cosigner.parse(witness.key)]
    ).quick()
    scribe.close()
    assert not verdict.intact and not any(NAME in one for one in verdict.proved)


def test_what_a_witness_did_not_sign_is_refused(tmp_path: Path, witness: Witness) -> None:
    note = note_of(written(tmp_path, 9))
    key = Cosigner.parse(witness.key)
    good = witness.cosigned(note)
    assert key.seen(good) == AT
    for wrong in (
        witness.cosigned(note, AT, said=AT + 1),
        witness.cosigned(note.replace("\n9\n", "\n8\n")).replace("\n8\n", "\n9\n"),
        witness.cosigned(note, 1, said=1 << 63),
    ):
        with pytest.raises(NoteError, match="does not fit the checkpoint"):
            key.seen(wrong)
    for short in (b"", b"1234567"):
        line = b64encode(witness.id + short + b"x").decode()
        with pytest.raises(NoteError, match="does not fit"):
            key.seen(f"{note}\N{EM DASH} {NAME} {line}\n")
    for absent in (note, Witness(witness.kind).cosigned(note),
                   Witness(witness.kind, "w2").cosigned(note)):  # fmt: skip
        with pytest.raises(NoteError, match=f"is not cosigned by {NAME}"):
            key.seen(absent)
    with pytest.raises(NoteError, match="not a signed note"):
        key.seen("nothing")


def test_every_bit_of_a_cosignature_counts(tmp_path: Path) -> None:
    note = note_of(written(tmp_path, 9))
    witness = Witness(4)
    key, good = Cosigner.parse(witness.key), witness.cosigned(note).encode()
    for at in range(len(note.encode()), len(good)):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(NoteError):
            key.seen(changed.decode("utf-8", "replace"))


def test_keys_of_other_kinds_are_no_witness_keys(tmp_path: Path, witness: Witness) -> None:
    assert Cosigner.parse(f"{witness.key}\n").id == witness.id
    with pytest.raises(NoteError, match="is not a witness's"):
        Cosigner.parse(public(written(tmp_path, 1)).text)
    with pytest.raises(NoteError, match="was altered"):
        Cosigner.parse(witness.key.replace("w1", "w2"))
    with pytest.raises(NoteError, match="name\\+id\\+base64"):
        Cosigner.parse("witness")


def test_the_command_asks_for_a_witness(tmp_path: Path) -> None:
    folder, witness = written(tmp_path / "data", 20), Witness(4)
    kept, key = tmp_path / "kept", tmp_path / "witness.pub"
    kept.write_text(witness.cosigned(note_of(folder)))
    key.write_text(f"{witness.key}\n")
    verify = ("audit", "verify", "--data-dir", tmp_path / "data")
    for given in (("--checkpoint", kept), ("--since", kept)):
        for named in (key, witness.key):
            done = bifrost(*verify, *given, "--witness", named)
            assert done.code == 0 and f"The witness {NAME} cosigned" in done.out
    done = bifrost(*verify, "--checkpoint", kept, "--witness", Witness(4).key)
    assert done.code == 2 and "is not cosigned by" in done.err
    done = bifrost(*verify, "--witness", key)
    assert done.code == 2 and "--checkpoint" in done.err
    assert bifrost(*verify, "--checkpoint", kept).code == 0  # its line disturbs nobody
    shown = bifrost(*verify, "--checkpoint", kept, "--witness", key, "--json").out
    assert any(NAME in one for one in json.loads(shown)["proved"])


def test_over_http_too(tmp_path: Path) -> None:
    running, witness = RunningGateway(tmp_path, configuration("http://127.0.0.1:9")), Witness(4)
    try:
        with Admin(running) as admin:
            admin.post("/governance/teams", {"name": "one"})
            kept = witness.cosigned(admin.get("/audit-logs/checkpoint")["checkpoint"])
            asked = {"checkpoint": kept, "witnesses": [witness.key]}
            told = admin.post("/audit-logs/verify", asked, 200)
            assert told["intact"] and any(NAME in one for one in told["proved"])
            for body, place in (
                ({"witnesses": [witness.key]}, "checkpoint"),
                ({"checkpoint": kept, "witnesses": ["none"]}, "witnesses"),
                ({"checkpoint": kept, "witnesses": [Witness(4).key]}, "checkpoint"),
            ):
                assert set(problem(admin("POST", "/audit-logs/verify", body), 422)) == {place}
    finally:
        running.stop()
