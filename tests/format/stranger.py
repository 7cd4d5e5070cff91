"""A decoder of the repository's format by a stranger: written from docs/format.md alone, with none of our code.

Owns reading a directory store. Never writes a repository, never imports replicator; HPKE is by hand from RFC 9180.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from backports import zstd
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_DIR, _TLI, _SEG, _LSN, _ID = (
    r"(?P<system>\d+)",
    r"(?P<tli>[0-9A-F]{8})",
    r"[0-9A-F]{24}",
    r"[0-9A-F]{16}",
    r"[0-9a-f]{16}",
)
_LABEL = r"(?P<label>\d{8}T\d{6}Z)"
SEALED = {
    1: re.compile(rf"{_DIR}/wal/{_TLI}/(?P<log>[0-9A-F]{{8}})/(?P<segment>{_SEG})-(?P<fingerprint>{_ID})"),
    2: re.compile(
        rf"{_DIR}/pieces/{_TLI}/(?P<segment>{_SEG})/(?P<start>{_LSN})-(?P<end>{_LSN})-(?P<fingerprint>{_ID})"
    ),
    3: re.compile(rf"{_DIR}/packs/{_LABEL}/(?P<attempt>[0-9a-f]{{8}})-(?P<number>\d{{6}})"),
    4: re.compile(rf"{_DIR}/snapshots/{_LABEL}/{_TLI}-(?P<start>{_LSN})-(?P<end>{_LSN})"),
}
SIGNED = {
    "repository": re.compile(r"replicator\.json"),
    "key": re.compile(rf"keys/(?P<id>{_ID})/public"),
    "recipient": re.compile(rf"keys/(?P<key>{_ID})/(?P<recipient>(?:x25519|passphrase)-{_ID})"),
    "writer": re.compile(rf"writers/(?P<id>{_ID})"),
    "removal": re.compile(rf"removed/(?P<what>writers/{_ID}|recipients/(?:x25519|passphrase)-{_ID}|keys/{_ID})"),
    "history": re.compile(rf"{_DIR}/history/{_TLI}\.history"),
    "begin": re.compile(rf"{_DIR}/packs/{_LABEL}/begin-(?P<attempt>[0-9a-f]{{8}})"),
    "note": re.compile(
        rf"{_DIR}/notes/(?P<time>\d{{8}}T\d{{12}}Z)-(?P<kind>[a-z]+)-(?P<subject>[A-Za-z0-9._]+)-(?P<fingerprint>{_ID})"
    ),
}
BY_ROOT = ("repository", "key", "recipient", "writer", "removal")


class Refused(Exception):
    """What stands in the store is not what the format promises."""


def need(true: object, what: str) -> None:
    """Refuse unless true."""
    if not true:
        raise Refused(what)


def lsn(text: str) -> int:
    """An LSN in PostgreSQL's text form."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def unbase(text: str) -> bytes:
    """base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_of(text: str, kind: str) -> bytes:
    """The 32 bytes of a key in text."""
    prefix, _, rest = text.strip().partition(":")
    raw = unbase(rest)
    need(prefix == kind and len(raw) == 32, f"not a key of kind {kind}")
    return raw


def verified(public: bytes, signature: bytes, domain: bytes, data: bytes) -> bool:
    """Whether an Ed25519 signature over domain, a zero byte and data is right."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain + b"\0" + data)
    except InvalidSignature:
        return False
    return True


def hpke_open(private: bytes, sealed: bytes, info: bytes) -> bytes:
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, first message, no associated data."""

    def extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")

    def expand(suite: bytes, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
        text = struct.pack(">H", length) + b"HPKE-v1" + suite + label + context
        return hmac.digest(secret, text + b"\1", "sha256")[:length]

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    mine, encapsulated = X25519PrivateKey.from_private_bytes(private), sealed[:32]
    shared = mine.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    context = encapsulated + mine.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", schedule, 32), expand(suite, secret, b"base_nonce", schedule, 12)
    return AESGCM(key).decrypt(nonce, sealed[32:], None)


@dataclass(frozen=True)
class Sealed:
    """A sealed object whose table, signature, name and head were verified."""

    path: Path
    name: str
    kind: int
    parts: dict[str, str]
    head: bytes
    frames: tuple[tuple[bytes, int, int], ...]
    start: int
    end: int
    times: tuple[int, int]
    plain_bytes: int
    extra: bytes

    @property
    def label(self) -> bytes:
        """The header's label."""
        return self.head[72:88]


class Repository:
    """The folder `<root>/<cluster>` of a directory store. `anchor` is the root's public half from outside the store."""

    def __init__(self, folder: Path, anchor: str) -> None:
        self.folder = folder
        self.root = key_of(anchor, "ed25519")
        self.id = self._repository_id()
        self.writers: dict[str, bytes] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.sealed: dict[str, Sealed] = {}
        self.ignored: list[str] = []
        self._keys: dict[str, bytes] = {}
        files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        names = sorted(path.relative_to(folder).as_posix() for path in files)
        self.removed: set[str] = set()
        for name in sorted(names, key=lambda name: (not name.startswith("removed/"), not name.startswith("writers/"))):
            self._take(name)
        body = self.documents["replicator.json"]
        need(key_of(body["root"], "ed25519") == self.root, "another root")
        self.mode = body["mode"]
        self.frame = lru_cache(maxsize=64)(self._frame)
        self.object_key = lru_cache(maxsize=64)(self._object_key)

    def _repository_id(self) -> bytes:
        return bytes.fromhex(json.loads((self.folder / "replicator.json").read_bytes().split(b"\n")[0])["repository"])

    def _take(self, name: str) -> None:
        for document, pattern in SIGNED.items():
            if match := pattern.fullmatch(name):
                if self._gone(document, match.groupdict()):
                    self.ignored.append(name)
                    return
                self.documents[name] = self._document(name, document, match.groupdict())
                return
        for kind, pattern in SEALED.items():
            if match := pattern.fullmatch(name):
                self.sealed[name] = self._sealed(name, kind, match.groupdict())
                return
        self.ignored.append(name)

    def _gone(self, kind: str, parts: dict[str, str]) -> bool:
        """Whether the root said that this document counts no more."""
        key = parts.get("key") or parts.get("id") if kind in ("key", "recipient") else None
        writer = f"writers/{parts['id']}" if kind == "writer" else None
        recipient = f"recipients/{parts['recipient']}" if kind == "recipient" else None
        return bool({f"keys/{key}", writer, recipient} & self.removed)

    # Documents

    def _document(self, name: str, kind: str, parts: dict[str, str]) -> dict[str, Any]:
        lines = (self.folder / name).read_bytes().split(b"\n")
        need(len(lines) == 3 and lines[2] == b"", f"{name}: not two lines")
        value = json.loads(lines[0])
        need(canonical(value) == lines[0], f"{name}: not canonical")
        word, signer, signature = lines[1].decode().split(" ")
        need(word == "signed" and (signer == "root") == (kind in BY_ROOT), f"{name}: signed by the wrong one")
        public = self.root if signer == "root" else self.writers[signer]
        need(verified(public, unbase(signature), b"replicator document 1", lines[0]), f"{name}: wrong signature")
        body: dict[str, Any] = value.pop("body")
        wanted = {"kind": kind, "name": name, "repository": self.id.hex(), "version": 1}
        need(value == wanted, f"{name}: says to be another document")
        self._bound(name, kind, parts, body)
        return body

    def _bound(self, name: str, kind: str, parts: dict[str, str], body: dict[str, Any]) -> None:
        if kind in ("writer", "key"):
            none = kind == "key" and parts["id"] == "0" * 16
            public = b"" if none else key_of(body["public"], "ed25519" if kind == "writer" else "x25519")
            need(none or blake3(public).hexdigest()[:16] == parts["id"], f"{name}: another key")
            if kind == "writer":
                self.writers[parts["id"]] = public
        if kind == "removal":
            need(body["removes"] == parts["what"], f"{name}: removes something else")
            self.removed.add(parts["what"])
        if kind == "note":
            digest = blake3(self.id + canonical(body)).hexdigest()[:16]
            need(digest == parts["fingerprint"], f"{name}: another fingerprint")
            need((body["kind"], body["subject"]) == (parts["kind"], parts["subject"]), f"{name}: another note")
        if kind == "history":
            need(body["timeline"] == int(parts["tli"], 16), f"{name}: another timeline")

    # Keys

    def unlock(self, *, passphrase: str | None = None, secret: str | None = None) -> int:
        """Open every repository key that this passphrase or X25519 secret opens; how many."""
        opened = 0
        for name, body in self.documents.items():
            match = SIGNED["recipient"].fullmatch(name)
            if match is None:
                continue
            key_id, recipient = match["key"], match["recipient"]
            info = b"replicator recipient 1\0" + self.id + bytes.fromhex(key_id) + recipient.encode()
            if body["type"] == "passphrase" and passphrase is not None:
                wrapped = self._by_passphrase(passphrase, recipient, body, info)
            elif body["type"] == "x25519" and secret is not None:
                private = key_of(secret, "x25519-secret")
                public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
                if f"x25519-{blake3(public).hexdigest()[:16]}" != recipient:
                    continue
                need(key_of(body["public"], "x25519") == public, f"{name}: another recipient")
                wrapped = hpke_open(private, unbase(body["sealed"]), info)
            else:
                continue
            self._learn(key_id, wrapped)
            opened += 1
        return opened

    def _by_passphrase(self, passphrase: str, recipient: str, body: dict[str, Any], info: bytes) -> bytes:
        salt = unbase(body["salt"])
        need(recipient == f"passphrase-{salt[:8].hex()}", "another salt")
        n, r, p = body["n"], body["r"], body["p"]
        memory = 128 * r * (n + p + 2) + 2**20
        key = hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=r, p=p, dklen=32, maxmem=memory)
        return AESGCM(key).decrypt(bytes(12), unbase(body["sealed"]), info)

    def _learn(self, key_id: str, wrapped: bytes) -> None:
        need(len(wrapped) == 64, "a wrapped secret is 64 bytes")
        private, seed = wrapped[:32], wrapped[32:]
        root = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        need(root == self.root, "another root's seed is wrapped")
        if key_id == "0" * 16:
            need(private == bytes(32), "no key, yet a private half")
            return
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        need(key_of(self.documents[f"keys/{key_id}/public"]["public"], "x25519") == public, "another private half")
        self._keys[key_id] = private

    # Sealed objects

    def _sealed(self, name: str, kind: int, parts: dict[str, str]) -> Sealed:
        path = self.folder / name
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - 16)
            table_length, head_length, magic = struct.unpack(">II8s", file.read(16))
            need(magic == b"RPLEND\r\n" and head_length in (96, 176), f"{name}: trailer")
            need(size >= head_length + table_length + 80, f"{name}: too short")
            file.seek(size - 80 - table_length)
            table, signature = file.read(table_length), file.read(64)
            file.seek(0)
            head = file.read(head_length)
        need(
            verified(self.writers[head[40:48].hex()], signature, b"replicator table 1", self.id + table),
            f"{name}: signature",
        )
        magic, version, n, f, e, zero, digest, start, end, first, last, plain = struct.unpack_from(
            ">8sHHIII32sQQQQQ", table
        )
        need((magic, version, zero) == (b"RPLTABLE", 1, 0), f"{name}: table")
        need(len(table) == 96 + n + 40 * f + e, f"{name}: table's length")
        need(table[96 : 96 + n].decode() == name, f"{name}: names another object")
        frames = tuple(struct.iter_unpack(">32sII", table[96 + n : 96 + n + 40 * f]))
        need(sum(frame[1] for frame in frames) + head_length + table_length + 80 == size, f"{name}: length")
        need(sum(frame[2] for frame in frames) == plain, f"{name}: plain bytes")
        need(all(frame[2] <= 2**21 for frame in frames), f"{name}: a frame is too large")
        need(blake3(head).digest() == digest, f"{name}: head")
        extra = table[96 + n + 40 * f :]
        found = Sealed(path, name, kind, parts, head, frames, start, end, (first, last), plain, extra)
        self._check_head(found)
        return found

    def _check_head(self, found: Sealed) -> None:
        """The header's fields against the name and the table."""
        magic, version, kind, cipher, compression, length, zero = struct.unpack_from(">8sHBBBBH", found.head)
        system, tli, segsize, start, label, attempt, number = struct.unpack_from(">QIIQ16sII", found.head, 48)
        parts, name = found.parts, found.name
        need((magic, version, kind, zero) == (b"\x89REPLOB\n", 1, found.kind, 0), f"{name}: header")
        need(cipher in (0, 1) and compression in (0, 1), f"{name}: cipher or compression")
        need(length == (80 if cipher else 0) == len(found.head) - 96, f"{name}: sealed key")
        need(found.head[16:32] == self.id and (cipher or found.head[32:40] == bytes(8)), f"{name}: repository or key")
        need(system == int(parts["system"]) and start == found.start, f"{name}: system or start")
        need(tli == int(parts.get("tli", "0"), 16), f"{name}: timeline")
        need(label == parts.get("label", "").encode().ljust(16, b"\0"), f"{name}: label")
        need(number == int(parts.get("number", "0")), f"{name}: number")
        if kind == 1:
            log, low = int(parts["segment"][8:16], 16), int(parts["segment"][16:], 16)
            need(parts["segment"][8:16] == parts["log"], f"{name}: log")
            need(start == (log << 32) + low * segsize and found.end == start + segsize, f"{name}: range")
            need(parts["segment"][:8] == parts["tli"], f"{name}: segment's timeline")
        elif kind in (2, 4):
            need((start, found.end) == (int(parts["start"], 16), int(parts["end"], 16)), f"{name}: range")
        if kind == 2:
            segment = f"{tli:08X}{start >> 32:08X}{(start & 0xFFFFFFFF) // segsize:08X}"
            need(segment == parts["segment"], f"{name}: segment")
            need(start < found.end <= start - start % segsize + segsize, f"{name}: leaves its segment")
        if kind in (1, 2):
            need(found.plain_bytes == found.end - start and attempt == 0, f"{name}: size")
        elif kind == 3:
            need((segsize, found.start, found.end) == (0, 0, 0) and attempt == int(parts["attempt"], 16), name)
        else:
            need(f"{attempt:08x}" == json.loads(found.extra)["attempt"], f"{name}: attempt")

    def _frame(self, name: str, number: int) -> bytes:
        """The plain bytes of one frame."""
        found = self.sealed[name]
        digest, sealed_bytes, plain_bytes = found.frames[number]
        with found.path.open("rb") as file:
            file.seek(len(found.head) + sum(frame[1] for frame in found.frames[:number]))
            data = file.read(sealed_bytes)
        need(blake3(data).digest() == digest, f"{name}: frame {number}")
        if found.head[11]:
            bound = blake3(found.head).digest() + struct.pack(">Q", number)
            data = AESGCM(self.object_key(name)).decrypt(number.to_bytes(12, "big"), data, bound)
        if found.head[12]:
            data = zstd.decompress(data)
        need(len(data) == plain_bytes, f"{name}: plain bytes of frame {number}")
        return data

    def _object_key(self, name: str) -> bytes:
        head = self.sealed[name].head
        return hpke_open(self._keys[head[32:40].hex()], head[96:], b"replicator object key 1\0" + head[:96])

    def plain(self, name: str) -> bytes:
        """The plain object; of WAL its fingerprint is verified."""
        found = self.sealed[name]
        data = b"".join(self.frame(name, number) for number in range(len(found.frames)))
        if "fingerprint" in found.parts:
            need(blake3(self.id + data).hexdigest()[:16] == found.parts["fingerprint"], f"{name}: fingerprint")
        return data

    # WAL

    def segment(self, segment: str) -> bytes:
        """What the repository has of a segment, from its start on."""
        for name, found in self.sealed.items():
            if found.kind == 1 and found.parts["segment"] == segment:
                return self.plain(name)
        pieces = sorted(
            (found.start, found.end, name)
            for name, found in self.sealed.items()
            if found.kind == 2 and found.parts["segment"] == segment
        )
        need(pieces, f"nothing of {segment}")
        size = struct.unpack_from(">I", self.sealed[pieces[0][2]].head, 60)[0]
        begin = at = pieces[0][0] // size * size
        data = b""
        for start, end, name in pieces:
            if start <= at < end:
                data, at = data[: start - begin] + self.plain(name), end
        return data

    # Snapshots

    def manifest(self, name: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Extra, facts and entries; facts and extra are held against each other and the name."""
        found = self.sealed[name]
        extra, lines = json.loads(found.extra), self.plain(name).split(b"\n")
        need(lines.pop() == b"", f"{name}: last line not ended")
        facts, *entries = (json.loads(line) for line in lines)
        need((facts["label"], facts["parent"]) == (found.parts["label"], extra["parent"]), f"{name}: facts")
        need((facts["start_time"], facts["stop_time"]) == found.times, f"{name}: times")
        need(facts["system_id"] == found.parts["system"], f"{name}: system")
        need((lsn(facts["start_lsn"]), lsn(facts["stop_lsn"])) == (found.start, found.end), f"{name}: range")
        need(sum("f" in entry for entry in entries) == extra["files"], f"{name}: files")
        need(sum(entry.get("s", 0) for entry in entries) == extra["bytes"], f"{name}: bytes")
        own = [self.pack(found, *pack) for pack in extra["packs"] if pack[0] == facts["label"]]
        need(sum(self.sealed[pack].path.stat().st_size for pack in own) == extra["added_bytes"], f"{name}: added")
        need(extra["packs"] == sorted(extra["packs"]), f"{name}: packs are not in ascending order")
        return extra, facts, entries

    def pack(self, manifest: Sealed, label: str, attempt: str, number: int) -> str:
        """The name of a pack that this manifest, or a chunk of it, names."""
        name = f"{manifest.parts['system']}/packs/{label}/{attempt}-{number:06d}"
        need(name in self.sealed, f"{name} is missing")
        return name

    def rebuild(self, name: str, into: Path) -> set[str]:
        """Write the tree of a snapshot; the packs that were read."""
        extra, facts, entries = self.manifest(name)
        key, found, used = bytes.fromhex(facts["comparison_key"]), self.sealed[name], set[str]()
        directories: list[tuple[Path, int]] = []
        for entry in entries:
            path = into / os.fsencode(next(entry[kind] for kind in "fdl" if kind in entry)).decode(
                errors="surrogateescape"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            if "d" in entry:
                path.mkdir(exist_ok=True)
                directories.append((path, entry["m"]))
            elif "l" in entry:
                path.symlink_to(os.fsencode(entry["t"]).decode(errors="surrogateescape"))
            else:
                with path.open("xb") as file:
                    for block in self._blocks(found, entry, key, used):
                        file.write(block)
                need(path.stat().st_size == entry["s"], f"{path}: size")
                path.chmod(entry["m"])
                os.utime(path, (entry["u"], entry["u"]))
        for path, mode in directories:
            path.chmod(mode)
        need(entries[-1].get("f") == "global/pg_control", "pg_control is not last")
        need(used == {self.pack(found, *pack) for pack in extra["packs"]}, "packs named and packs used differ")
        return used

    def _blocks(self, manifest: Sealed, entry: dict[str, Any], key: bytes, used: set[str]) -> Iterator[bytes]:
        left, size = entry["s"], entry["b"]
        for place in entry["c"]:
            chunk = base64.b64decode(place, validate=True) if isinstance(place, str) else b""
            if not chunk:
                label, attempt, number, frame, offset, length = place
                pack = self.pack(manifest, label, attempt, number)
                used.add(pack)
                chunk = self.frame(pack, frame)[offset : offset + length]
            n, r, p, h = struct.unpack_from(">IIII", chunk)
            h = h or 16
            need(n <= 4096 and len(chunk) == 16 + 24 * p + 16 * r + h * n, "map chunk's length")
            packs = [
                self.pack(manifest, label.decode(), f"{attempt:08x}", number)
                for label, attempt, number in struct.iter_unpack(">16sII", chunk[16 : 16 + 24 * p])
            ]
            used.update(packs)
            hashes = chunk[16 + 24 * p + 16 * r :]
            done = 0
            for count, index, frame, offset in struct.iter_unpack(">IIII", chunk[16 + 24 * p : 16 + 24 * p + 16 * r]):
                data = b"" if index == 0xFFFFFFFF else self.frame(packs[index], frame)
                for _ in range(count):
                    length = min(size, left)
                    block = data[offset : offset + length] if data else bytes(length)
                    need(len(block) == length > 0, "a run leaves its frame or its file")
                    need(blake3(block, key=key).digest()[:h] == hashes[h * done : h * done + h], "block's hash")
                    left, offset, done = left - length, offset + length, done + 1
                    yield block
            need(done == n, "runs and number of blocks differ")
        need(left == 0, "chunks end before the file")


def canonical(value: Any) -> bytes:
    """Canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
