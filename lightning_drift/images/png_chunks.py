"""What a PNG holds beside its pixels: texts and a colour profile, read within bounds or left out."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**20
"""Bytes of a text or a profile, once unpacked, that Pillow takes."""

MAX_TEXTS = 32 * 2**20
"""Bytes of all texts of a file together; Pillow takes twice as much."""

MAX_PROFILE = 16 * 2**20
"""Bytes of a colour profile once it is unpacked."""


_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class Trimmed:
    """A PNG that Pillow opens whatever stands beside its pixels.

    Attributes:
        data: The file without what Pillow might stumble over and no picture needs.
        profile: A profile that was taken out because it is long; None if there was none.
        remarks: What was left out and changes how the picture looks, each a short phrase.
    """

    data: bytes
    profile: bytes | None = None
    remarks: tuple[str, ...] = ()


def trimmed(data: bytes) -> Trimmed:
    """Leave of a PNG what makes the picture: pixels, palette, transparency, profile, orientation.

    Pillow refuses a whole file for a text or a profile that is long once unpacked, for a wrong check sum of a
    remark, for an animation that breaks off. None of them is a fault of the pixels. Texts stay as far as they
    are whole and short: some programs keep the orientation there.

    Args:
        data: A PNG's bytes; other bytes are given back as they are.
    """
    if not data.startswith(SIGNATURE):
        return Trimmed(data)
    view = memoryview(data)
    kept = [view[: len(SIGNATURE)]]
    profile: bytes | None = None
    remarks: list[str] = []
    texts, place = 0, len(SIGNATURE)
    for kind, start, end in _chunks(data):
        content, place = view[start:end], end + 4
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(view[start - 8 : end + 4])
            continue
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            continue
        if kind == b"acTL" and int.from_bytes(content[:4], "big") > 1:
            remarks.append("several frames, the first is used")
        elif kind == b"iCCP":
            unpacked = _packed(_after_zero(content), MAX_PROFILE)
            if not unpacked:
                remarks.append("colour profile that cannot be read, taken as sRGB")
            elif len(unpacked) > MAX_PROFILE:
                remarks.append(f"colour profile of more than {MAX_PROFILE // 2**20} MiB, taken as sRGB")
            elif len(unpacked) > MAX_TEXT:
                profile = unpacked
            else:
                kept.append(view[start - 8 : end + 4])
        elif kind == b"eXIf":
            kept.append(view[start - 8 : end + 4])
        elif kind in _TEXTS and texts <= MAX_TEXTS:
            text = _text(kind, content)
            texts += 0 if text is None else len(text)
            if text is not None and len(text) <= MAX_TEXT:
                kept.append(view[start - 8 : end + 4])
    kept.append(view[place:])
    return Trimmed(b"".join(kept), profile, tuple(remarks))


def text_of(data: bytes, keyword: str) -> str | None:
    """The first text of a PNG under a keyword; None without one, or if it is longer than 32 MiB."""
    if not data.startswith(SIGNATURE):
        return None
    wanted = keyword.encode("latin-1")
    for kind, start, end in _chunks(data):
        if kind in _TEXTS and data[start : start + len(wanted) + 1] == wanted + b"\0":
            text = _text(kind, memoryview(data)[start:end], MAX_TEXTS)
            if text is not None and len(text) <= MAX_TEXTS:
                return text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
    return None


def with_text(data: bytes, text: Mapping[str, str]) -> bytes:
    """A PNG with international texts (iTXt) put in behind its header."""
    place = len(SIGNATURE) + 25  # the header is a chunk of 13 bytes
    chunks = b""
    for key, value in text.items():
        content = b"iTXt" + key.encode("latin-1") + bytes(5) + value.encode("utf-8", "surrogatepass")
        chunks += (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    return data[:place] + chunks + data[place:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, and where its content begins and ends; up to the end or the first that is cut."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            return
        kind = data[place + 4 : place + 8]
        yield kind, place + 8, end
        if kind == b"IEND":
            return
        place = end + 4


def _after_zero(content: memoryview) -> memoryview:
    """What follows the keyword, which a zero byte ends and which has 79 bytes at most."""
    place = bytes(content[:80]).find(b"\0")
    return content[place + 1 :] if place >= 0 else content[:0]


def _text(kind: bytes, content: memoryview, most: int = MAX_TEXT) -> bytes | None:
    """The text of a chunk, of a packed one at most ``most`` bytes and one; None where it is no text."""
    rest = _after_zero(content)
    if kind == b"tEXt":
        return bytes(rest)
    if kind == b"zTXt":
        return _packed(rest, most)
    head = bytes(rest[2:1026]).split(b"\0", 2)  # the language and the keyword in it are short
    if len(head) < 3:
        return None
    body = rest[2 + len(head[0]) + len(head[1]) + 2 :]
    return _unpacked(body, most) if rest[0] else bytes(body)


def _packed(content: memoryview, most: int) -> bytes | None:
    """What a method, of which there is one, and packed bytes stand for; None where it is another."""
    return _unpacked(content[1:], most) if len(content) > 1 and content[0] == 0 else None


def _unpacked(content: memoryview, most: int) -> bytes | None:
    """At most ``most`` bytes and one of what is packed; None where it is damaged."""
    try:
        return zlib.decompressobj().decompress(content, most + 1)
    except zlib.error:
        return None
