"""Sealed objects: what is sealed opens again, and nothing that was touched does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.lsn import Lsn
from replicator.errors import CannotOpen, IntegrityError, KeysError, ReplicatorError
from replicator.seal.document import UnverifiedDocument, canonical, open_document, sign_document
from replicator.seal.header import FRAME_SIZE, HEADER_SIZE, Cipher, Compression, Header, Kind
from replicator.seal.keyring import NO_KEY, Keyring
from replicator.seal.recipients import (
    WrappedSecret,
    unwrap_with_identity,
    unwrap_with_passphrase,
    wrap_for_passphrase,
    wrap_for_x25519,
)
from replicator.seal.sealer import ObjectOpener, ObjectSealer, check_head, parse_tail, verify_table
from replicator.seal.signature import SigningKey, key_text, new_x25519, parse_key, x25519_public
from replicator.seal.table import Table

ROOT = SigningKey(b"r" * 32)
WRITER = SigningKey(b"w" * 32)
PRIVATE = b"p" * 32
NAME = "7/packs/20260101T000000Z/00000001-000002"


def keyring(cipher: Cipher = Cipher.AES_256_GCM) -> Keyring:
    """A repository's keys, fixed."""
    if cipher is Cipher.NONE:
        return Keyring(b"i" * 16, cipher, ROOT.public, writers={WRITER.id: WRITER.public}, writer=WRITER)
    return Keyring(
        b"i" * 16, cipher, ROOT.public, b"k" * 8, {b"k" * 8: x25519_public(PRIVATE)}, {WRITER.id: WRITER.public},
        {b"k" * 8: PRIVATE}, WRITER,
    )  # fmt: skip


HEADER = Header(
    Kind.PACK, Cipher.NONE, Compression.ZSTD, b"", NO_KEY, b"", 7, label="20260101T000000Z", attempt=1, number=2
)


def seal(keys: Keyring, frames: list[bytes], header: Header = HEADER, name: str = NAME) -> bytes:
    """A whole object."""
    sealer = ObjectSealer(keys, header, 3)
    body = b"".join([sealer.frame(frame) for frame in frames])
    return sealer.head + body + sealer.finish(name, start=Lsn(1), end=Lsn(2), first_us=3, last_us=4, extra=b"{}")


def read(keys: Keyring, data: bytes, name: str = NAME) -> bytes:
    """All plain bytes of an object, checked in the reader's order."""
    found = parse_tail(data, len(data), name)
    assert not isinstance(found, int)
    table, signature, raw = found
    verify_table(keys, signature, raw, name)
    header = check_head(keys, data[: table.head_size], table, name)
    opener = ObjectOpener(keys, header, data[: table.head_size], table)
    offsets = table.offsets
    return b"".join(opener.open_frame(n, data[offsets[n] : offsets[n + 1]]) for n in range(len(table.frames)))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=5000), max_size=5), st.sampled_from(Cipher), st.sampled_from(Compression)
)
def test_reads_back(frames: list[bytes], cipher: Cipher, compression: Compression) -> None:
    """Any frames, with and without encryption and compression."""
    keys = keyring(cipher)
    assert read(keys, seal(keys, frames, replace(HEADER, compression=compression))) == b"".join(frames)


@pytest.mark.parametrize("cipher", list(Cipher))
def test_every_flipped_bit_is_found(cipher: Cipher) -> None:
    """No byte of an object can change without an IntegrityError."""
    keys = keyring(cipher)
    data = seal(keys, [b"hello" * 20, b"world" * 20])
    for at in range(len(data)):
        touched = bytearray(data)
        touched[at] ^= 1 << (at % 8)
        with pytest.raises(IntegrityError):
            read(keys, bytes(touched))


def test_every_truncation_is_found() -> None:
    """Nor can it end early or late."""
    keys = keyring()
    data = seal(keys, [b"hello" * 20])
    for end in range(len(data)):
        with pytest.raises(IntegrityError):
            read(keys, data[:end])
    with pytest.raises(IntegrityError):
        read(keys, data + b"x")


def test_another_name_another_repository_another_writer() -> None:
    """An object is bound to its name, its repository, and writers that the root signed."""
    keys = keyring()
    data = seal(keys, [b"x"])
    with pytest.raises(IntegrityError, match="holds the object"):
        read(keys, data, NAME[:-1] + "3")
    with pytest.raises(IntegrityError, match="no writer of this repository"):  # the signature binds the repository
        read(replace(keys, repository_id=b"j" * 16), data)
    with pytest.raises(IntegrityError, match="no writer"):
        read(replace(keys, writers={}), data)
    with pytest.raises(IntegrityError):
        read(keys, seal(replace(keys, writer=SigningKey(b"f" * 32)), [b"x"]))


def test_frames_cannot_be_swapped() -> None:
    """Two frames of one length in the other order are found."""
    keys = keyring()
    data = seal(keys, [b"a" * 100, b"b" * 100])
    found = parse_tail(data, len(data), NAME)
    assert not isinstance(found, int)
    low, middle, high = found[0].offsets
    with pytest.raises(IntegrityError, match="frame 0"):
        read(keys, data[:low] + data[middle:high] + data[low:middle] + data[high:])


def test_without_a_private_key_nothing_opens() -> None:
    """A host that only writes can seal, and check signatures, and not read."""
    keys = keyring()
    blind = keys.without_secrets()
    assert not blind.can_open
    assert blind.can_write
    data = seal(blind, [b"secret"])
    assert b"secret" not in data
    with pytest.raises(CannotOpen):
        read(blind, data)
    assert read(keys, data) == b"secret"
    with pytest.raises(IntegrityError):
        read(replace(keys, private={b"k" * 8: b"q" * 32}), data)


def test_each_object_has_a_key_of_its_own() -> None:
    """The same plain bytes never give the same sealed bytes."""
    keys = keyring()
    assert seal(keys, [b"x"]) != seal(keys, [b"x"])


def test_tail_says_how_much_it_needs() -> None:
    """A tail that is too short for the table names the length to fetch."""
    keys = keyring()
    data = seal(keys, [b"x"] * 50)
    needed = parse_tail(data[-100:], len(data), NAME)
    assert isinstance(needed, int)
    assert not isinstance(parse_tail(data[-needed:], len(data), NAME), int)


def test_frame_size_is_bounded() -> None:
    """Neither empty nor more than 2 MiB."""
    sealer = ObjectSealer(keyring(), HEADER, 3)
    for size in (0, FRAME_SIZE + 1):
        with pytest.raises(ReplicatorError):
            sealer.seal_frame(0, bytes(size))


def test_header_reads_back_and_has_its_length() -> None:
    """96 bytes, every field."""
    header = Header(
        Kind.WAL, Cipher.AES_256_GCM, Compression.ZSTD, b"i" * 16, b"k" * 8, b"w" * 8, 2**64 - 1, 5, 2**24, Lsn(2**40)
    )
    assert len(header.to_bytes()) == HEADER_SIZE
    assert Header.parse(header.to_bytes(), "x") == header


@given(st.binary(max_size=300))
def test_garbage_is_named(data: bytes) -> None:
    """Any bytes give an IntegrityError, never another exception."""
    with pytest.raises(IntegrityError):
        parse_tail(data, len(data), "x")
    with pytest.raises(IntegrityError):
        Header.parse(data, "x")
    with pytest.raises(IntegrityError):
        Table.parse(data, 96, "x")
    with pytest.raises(IntegrityError):
        UnverifiedDocument(data, "x")


SECRET = WrappedSecret(PRIVATE, ROOT.seed)


def test_recipients() -> None:
    """A passphrase and an identity unwrap what was wrapped for them, and for nobody else."""
    name, body = wrap_for_passphrase(SECRET, b"sandi", b"i" * 16, b"k" * 8, n=2**10)
    assert unwrap_with_passphrase(body, b"sandi", name, b"i" * 16, b"k" * 8) == SECRET
    assert unwrap_with_passphrase(body, b"salah", name, b"i" * 16, b"k" * 8) is None
    assert unwrap_with_passphrase(body, b"sandi", name, b"j" * 16, b"k" * 8) is None
    identity = new_x25519()
    name, body = wrap_for_x25519(SECRET, x25519_public(identity), b"i" * 16, b"k" * 8)
    assert unwrap_with_identity(body, identity, name, b"i" * 16, b"k" * 8) == SECRET
    assert unwrap_with_identity(body, new_x25519(), name, b"i" * 16, b"k" * 8) is None
    with pytest.raises(IntegrityError):
        unwrap_with_identity(body, identity, "x25519-other", b"i" * 16, b"k" * 8)
    assert PRIVATE not in repr(SECRET).encode()


def test_scrypt_parameters_of_a_stranger_are_bounded() -> None:
    """A document can't make us spend all memory."""
    name, body = wrap_for_passphrase(SECRET, b"sandi", b"i" * 16, b"k" * 8, n=2**10)
    with pytest.raises(IntegrityError):
        unwrap_with_passphrase({**body, "n": 2**40}, b"sandi", name, b"i" * 16, b"k" * 8)


def test_documents() -> None:
    """A document opens for its name, kind and repository, signed by the right key; every flipped bit is found."""
    keys = keyring()
    data = sign_document(WRITER, keys.repository_id, "note", "7/notes/x", {"a": [1, "é"]})
    assert open_document(keys, "note", "7/notes/x", data) == {"a": [1, "é"]}
    for keys_now, kind, name in [
        (keys, "note", "7/notes/y"),
        (keys, "gap", "7/notes/x"),
        (replace(keys, writers={}), "note", "7/notes/x"),
        (replace(keys, repository_id=b"j" * 16), "note", "7/notes/x"),
    ]:
        with pytest.raises(IntegrityError):
            open_document(keys_now, kind, name, data)
    for at in range(8 * len(data)):  # every bit: a writer's id in other letters is another line, too
        touched = bytearray(data)
        touched[at // 8] ^= 1 << at % 8
        with pytest.raises(IntegrityError):
            open_document(keys, "note", "7/notes/x", bytes(touched))
    forged = sign_document(WRITER, keys.repository_id, "writer", "writers/1", {})
    with pytest.raises(IntegrityError, match="wrong key"):
        open_document(keys, "writer", "writers/1", forged)
    signed = data[data.index(b"\nsigned ") :]
    for line in (b"[" * 200_000, b'{"body":' * 100_000):  # nobody has signed it: the signature is looked at later
        with pytest.raises(IntegrityError, match="not JSON"):
            open_document(keys, "note", "7/notes/x", line + signed)


def test_key_texts() -> None:
    """Keys read back; a wrong one is refused without being repeated."""
    assert parse_key("ed25519", key_text("ed25519", ROOT.public)) == ROOT.public
    for text in ("", "ed25519:abc", "x25519:" + "A" * 43, "ed25519:" + "!" * 43):
        with pytest.raises(KeysError) as caught:
            parse_key("ed25519", text)
        assert "!!!" not in str(caught.value)


def test_canonical_json() -> None:
    """Sorted, without spaces, ASCII."""
    assert canonical({"b": "é", "a": 1}) == b'{"a":1,"b":"\\u00e9"}'
