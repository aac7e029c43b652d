"""Verification: what the files of an audit log prove, and what they cannot.

It needs nothing but the files and trusts none of them: signatures are checked with the keys,
entries with the roots that were signed. The stored tree is used to say *which* entry was changed,
and is believed only when it gives the signed root.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from bifrost.audit import absent, epochs
from bifrost.audit.cosigners import Cosigner, witnessed
from bifrost.audit.epochs import Keyring
from bifrost.audit.log import Reader
from bifrost.audit.merkle import EMPTY, HASH, fold, leaves
from bifrost.audit.notary import Signed
from bifrost.audit.notes import Checkpoint, NoteError, PublicKey
from bifrost.audit.parts import Parts
from bifrost.audit.segments import segments
from bifrost.audit.survey import Progress, Survey, difference
from bifrost.audit.tiles import TILE, Tiles, tile_roots
from bifrost.audit.verdict import Damaged, Verdict
from bifrost.errors import StoreError

SAMPLES = 64  # tiles that a quick verification picks by chance
STRIDE = 1 << 18


class Verification:
    """One verification of the log in a folder.

    ``kept``: a checkpoint that was kept elsewhere, as a signed note. ``key``: the public key that
    was kept elsewhere. ``witnesses`` have to have cosigned ``kept``. Raises Damaged when keys or
    checkpoint are beyond reading, StoreError when there is nothing that could be verified,
    NoteError when ``kept`` is no checkpoint or a witness did not cosign it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kept: str | None = None,
        key: PublicKey | None = None,
        witnesses: Sequence[Cosigner] = (),
    ) -> None:
        self._folder = folder
        self._tiles = Tiles(folder)
        self._kept: Checkpoint | None = None
        self._seen = [(one.name, one.seen(kept)) for one in witnesses if kept is not None]
        try:
            signed = Signed.load(folder)
            if signed is None:
                raise StoreError(
                    f"Nothing is signed in {folder}: there is no checkpoint. The gateway signs "
                    "what it records; a log without a checkpoint proves nothing."
                )
            self._ring = Keyring(signed.keys)
        except NoteError as error:
            raise Damaged(f"The keys or the checkpoint are damaged: {error}") from None
        self._signed = signed.checkpoint
        self.verdict = Verdict(
            origin=self._ring.origin, key=self._ring.newest.key.text, size=self._signed.size,
            root=self._signed.root.hex(), findings=[], proved=[], not_proved=[],
        )  # fmt: skip
        self._check_key(key)
        self._check_note(signed.note)
        self._lasts = self._check_epochs()
        removal = absent.removal(folder, self._ring, self._signed.size, self.verdict)
        self._minimum = removal.index if removal is not None else 0
        self._removal = removal.seen if removal is not None else None
        if kept is not None:
            self._check_kept(kept)

    # -- signatures ----------------------------------------------------------------------------

    def _check_key(self, key: PublicKey | None) -> None:
        if key is None:
            self.verdict.not_proved.append(
                "That the key is the gateway's own: it was read beside the log. Pass the one you "
                "kept with --public-key."
            )
            return
        try:
            self._ring.find(key)
        except NoteError as error:
            self.verdict.found(str(error))

    def _check_note(self, note: str) -> None:
        try:
            self._ring.checked(note)
        except NoteError as error:
            self.verdict.found(f"The newest checkpoint: {error}")

    def _check_epochs(self) -> list[Checkpoint]:
        """The last checkpoint of each key that handed over."""
        lasts = []
        for epoch in self._ring.epochs[1:]:
            path = epochs.last_path(self._folder, epoch.number - 1)
            try:
                last = self._ring.checked(epochs.text(path))
            except (NoteError, OSError) as error:
                self.verdict.found(f"The last checkpoint of key {epoch.number - 1}: {error}")
                continue
            if last.size != epoch.after:
                self.verdict.found(f"{path.name} is not the last checkpoint of its key.")
            lasts.append(last)
        if self._signed.size < self._ring.newest.after:
            self.verdict.found(
                f"The checkpoint was set back: it covers {self._signed.size} entries, but a key "
                f"handed over at {self._ring.newest.after}.",
                self._signed.size,
            )
        return lasts

    def _check_kept(self, note: str) -> None:
        self._kept = kept = Checkpoint.parse(note)
        try:
            self._ring.checked(note)
        except NoteError as error:
            self.verdict.found(
                f"Your checkpoint does not belong to this log, or the log was made anew: {error}"
            )
        if kept.size > self._signed.size:
            self.verdict.found(
                f"The log was cut back: your checkpoint has {kept.size} entries, the log's newest "
                f"only {self._signed.size}.",
                self._signed.size,
            )
        elif kept.size == self._signed.size and kept.root != self._signed.root:
            self.verdict.found(
                "The log was rewritten: your checkpoint of the same size has another root. Which "
                f"of the entries 0 to {kept.size - 1} were changed cannot be told."
            )

    # -- entries -------------------------------------------------------------------------------

    def whole(self, progress: Progress | None = None, processes: int = 0) -> Verdict:
        """Hashes every entry again."""
        verdict, size = self.verdict, self._signed.size
        start = self._minimum - self._minimum % TILE
        try:
            before = self._tiles.hashes(1, 0, start // TILE)
        except StoreError as error:
            verdict.found(str(error))
            return self._concluded()
        self._survey(start, before, progress, processes)
        if verdict.intact:
            which = f"{verdict.checked:,} entries read" if start or verdict.unread else (
                f"{size:,} entries up to the newest checkpoint"
            )  # fmt: skip
            verdict.proved.append(
                f"All {which} are exactly those that were signed: none was changed, removed, "
                "inserted or moved."
            )
        return self._concluded()

    def since(self, progress: Progress | None = None, processes: int = 0) -> Verdict:
        """Hashes only what came after the kept checkpoint; for the rest the stored tree counts."""
        kept, verdict = self._kept, self.verdict
        assert kept is not None
        tiles = self._believed()
        if tiles is None or kept.size > self._signed.size:
            verdict.not_proved.append("Anything about entries: none were read.")
            return self._concluded()
        self._compare_known()
        least = max(kept.size, self._minimum)
        start = least - least % TILE
        self._survey(start, tiles[: start // TILE * HASH], progress, processes)
        if verdict.intact:
            verdict.proved += [
                f"The {self._signed.size - start:,} entries from {start} on are exactly those that "
                "were signed.",
                f"The signed tree begins with your {kept.size:,} entries, unchanged.",
            ]
            verdict.not_proved.append(
                f"That the files still hold entries 0 to {start - 1} as they were signed: they "
                "were not read again."
            )
        return self._concluded()

    def quick(self, progress: Progress | None = None) -> Verdict:
        """Checks signatures and the stored tree, and of the entries only some."""
        verdict, size = self.verdict, self._signed.size
        tiles = self._believed()
        if tiles is None:
            return self._concluded()
        self._compare_known()
        picked = sorted(self._picked(size))
        reader = Reader(self._folder, folder=self._folder)
        for tile in picked:
            self._check_tile(reader, tile, tiles)
            if progress is not None:
                progress(1)
        if verdict.intact:
            verdict.proved.append(
                f"The stored tree gives the signed root, and {verdict.checked:,} of {size:,} "
                f"entries fit it: first and last of each segment and {SAMPLES} groups by chance."
            )
        absent.look_at_archive(Parts(self._folder), verdict)
        if verdict.checked < size - self._minimum:
            verdict.not_proved.append(
                f"Anything about the other {size - self._minimum - verdict.checked:,} entries; "
                "leave --quick out."
            )
        return self._concluded()

    def picks(self) -> int:
        """How many groups a quick verification reads."""
        return len(self._picked(self._signed.size))

    def length(self, *, since: bool) -> int:
        """How many entries a whole verification hashes, or one since a checkpoint."""
        kept = self._kept.size if since and self._kept else 0
        return self._signed.size - max(kept, self._minimum)

    def _known(self) -> Iterator[Checkpoint]:
        """Every checkpoint but the newest: those of former keys and the one that was kept."""
        yield from self._lasts
        yield from filter(None, (self._kept, self._removal))

    def _compare_known(self) -> None:
        """Asks the stored tree, which gives the signed root, for the roots of old checkpoints."""
        for known in self._known():
            try:
                if known.size <= self._signed.size and self._tiles.root(known.size) != known.root:
                    self._rewritten(known)
            except StoreError as error:
                self.verdict.found(str(error))

    def _rewritten(self, known: Checkpoint) -> None:
        whose = "your checkpoint" if known is self._kept else "a former key's last checkpoint"
        if known is self._removal:
            whose = "the checkpoint of the last removal"
        self.verdict.found(
            f"The log was rewritten: {whose} of {known.size} entries has another root. Which of "
            f"the entries 0 to {known.size - 1} were changed cannot be told."
        )

    def _survey(self, start: int, before: bytes, progress: Progress | None, processes: int) -> None:
        size = self._signed.size
        known = [one for one in self._known() if start <= one.size <= size]
        sizes = sorted({size, *(one.size for one in known)})
        survey = Survey(self._folder, start, size, sizes, self._minimum)
        survey.run(progress, processes)
        self.verdict.checked, self.verdict.not_covered = survey.read, survey.beyond
        absent.say_unread(self.verdict, survey.unread)
        if survey.trouble:
            self.verdict.found(f"Entry {survey.end + survey.beyond} {survey.trouble}.",
                               survey.end + survey.beyond)  # fmt: skip
        root = survey.root(size, before)
        if root != self._signed.root:
            self._locate(survey, exact=root is None)
        elif survey.differs is not None or not self._tree_fits(survey, start):
            self.verdict.found(
                "The entries are as they were signed, but the stored tree (folder tile) was "
                "altered; move it away and the gateway makes it anew when it starts."
            )
        for one in known:
            found = survey.root(one.size, before)
            if found is not None and found != one.root and root == self._signed.root:
                self._rewritten(one)
        if root == self._signed.root:
            self._compare_old(before + bytes(survey.tiles), start)
        self._check_mark(survey)

    def _compare_old(self, roots: bytes, start: int) -> None:
        """Compares known checkpoints of entries that were not read again."""
        for one in self._known():
            try:
                if one.size < start and absent.old_root(self._tiles, roots, one.size) != one.root:
                    self._rewritten(one)
            except StoreError as error:
                self.verdict.found(str(error))

    def _locate(self, survey: Survey, *, exact: bool) -> None:
        """Says which entry is the first that is not as it was signed; ``exact``: one is known."""
        verdict, size = self.verdict, self._signed.size
        bad = survey.differs
        believed = self._believed(quiet=True)
        if believed is not None and bad is not None and self._leaves_fit(believed, bad):
            if bad < survey.end or not exact:
                verdict.found(f"Entry {bad} is not the one that was signed.", bad)
        elif not exact:
            verdict.found(
                f"The entries do not give the signed root, and the stored tree was altered too: "
                f"which of the entries 0 to {size - 1} is the first cannot be told.",
            )

    def _leaves_fit(self, tiles: bytes, upto: int) -> bool:
        """Whether the stored hashes of entries give the believed tiles, up to one's own tile."""
        whole = (self._signed.size >> 8) * TILE
        try:
            for start in range(0, min(whole, upto - upto % TILE + TILE), STRIDE):
                count = min(STRIDE, whole - start)
                roots = tile_roots(self._tiles.hashes(0, start, count))
                if roots != tiles[start // TILE * HASH :][: len(roots)]:
                    return False
        except StoreError:
            return False
        return True

    def _believed(self, *, quiet: bool = False) -> bytes | None:
        """The roots of all whole tiles as they are stored, if they give the signed root."""
        size = self._signed.size
        try:
            tiles = self._tiles.hashes(1, 0, size >> 8)
            last = self._tiles.hashes(0, size - size % TILE, size % TILE)
            root = fold(tiles + (fold(last) if last else b"")) if size else EMPTY
            if root == self._signed.root == self._tiles.root(size):
                return tiles
            why = "The stored tree (folder tile) does not give the signed root."
        except StoreError as error:
            why = str(error)
        if not quiet:
            self.verdict.found(f"{why} Verify without --quick and --since to read the entries.")
        return None

    def _tree_fits(self, survey: Survey, start: int) -> bool:
        """Whether the stored levels above the entries are those of the survey."""
        size = self._signed.size
        row, level = bytes(survey.tiles), 1
        try:
            while size >> 8 * level:
                first = start >> 8 * level
                count = (size >> 8 * level) - first
                if self._tiles.hashes(level, first, count) != row[: count * HASH]:
                    return False
                if start:
                    break
                row = tile_roots(row[: (count // TILE) * TILE * HASH])
                level += 1
        except StoreError:
            return False
        return True

    def _picked(self, size: int) -> set[int]:
        """The tiles that a quick verification reads."""
        tiles = -(-size // TILE)
        local = segments(self._folder)
        least = max(self._minimum, next(iter(local), 0))
        edges = {at // TILE for first in local for at in (first, first - 1)}
        chance = random.SystemRandom()
        picked = {chance.randrange(tiles) for _ in range(SAMPLES)} if tiles else set()
        return {tile for tile in edges | picked | {tiles - 1} if least <= tile * TILE < size}

    def _check_tile(self, reader: Reader, tile: int, tiles: bytes) -> None:
        start, verdict = tile * TILE, self.verdict
        count = min(TILE, self._signed.size - start)
        try:
            stored = self._tiles.hashes(0, start, count)
        except StoreError as error:
            verdict.found(str(error))
            return
        row = self._row(reader, start, count)
        verdict.checked += len(row) // HASH
        if count == TILE and fold(stored) != tiles[tile * HASH :][:HASH]:
            verdict.found(f"The stored tree was altered at entries {start} to {start + TILE - 1}.")
        elif row != stored:
            bad = difference(row, stored)
            verdict.found(f"Entry {start + bad} is not the one that was signed.", start + bad)

    def _row(self, reader: Reader, start: int, count: int) -> bytes:
        """The hashes of entries, as far as they can be read; the first that cannot is found."""
        try:
            return leaves(entry for _, entry in reader.read(start, count))
        except StoreError as error:
            if count == 1:
                self.verdict.found(str(error), start)
                return b""
        row = b""
        for index in range(start, start + count):
            row += self._row(reader, index, 1)
            if len(row) != (index + 1 - start) * HASH:
                break
        return row

    def _check_mark(self, survey: Survey) -> None:
        """Entries that were acknowledged but are gone, though no checkpoint covers them."""
        if (self._folder / "acknowledged").exists() and not survey.trouble:
            end = Reader(self._folder, folder=self._folder).end()
            have = survey.end + survey.beyond
            if end > have:
                self.verdict.found(f"Entry {have} was acknowledged but is missing.", have)

    def _concluded(self) -> Verdict:
        verdict, ring = self.verdict, self._ring
        if verdict.intact:
            signed = f"The checkpoint of {self._signed.size:,} entries is signed by {verdict.key}."
            verdict.proved.insert(0, signed)
            absent.say_removed(verdict)
            if len(ring.epochs) > 1:
                verdict.proved.append(
                    f"Each of the {len(ring.epochs)} keys was named by the one before it and "
                    "signed only in its own time."
                )
            if self._kept is not None:
                verdict.proved.append(
                    f"Nothing of the {self._kept.size:,} entries of your checkpoint was changed."
                )
            verdict.proved += [witnessed(name, at) for name, at in self._seen]
        if verdict.not_covered:
            verdict.not_proved.append(
                f"Anything about {verdict.not_covered} entries from {self._signed.size} on: they "
                "are newer than the newest checkpoint and not covered by a signature."
            )
        if self._kept is None:
            verdict.not_proved.append(
                "That the log was not cut back to an older checkpoint, or rewritten by somebody "
                "who has the signing key: pass a checkpoint you kept with --checkpoint."
            )
        return verdict
