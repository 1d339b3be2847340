"""Finds the encoding in which a whole file can be read, and names the byte where it can't."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from luban.data.problems import fault
from luban.errors import DataError

_CHUNK_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 18
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def find_encoding(path: Path) -> str:
    """Return the name of an encoding that decodes the file from its first byte to its last.

    A byte-order mark decides. Else it is UTF-8 if all of the file is, or UTF-16 if every other byte of its ASCII is 0,
    or GB18030 if its double bytes are mostly of GB 2312 (the characters in common use). What is none of these is left
    to charset-normalizer. A file that is UTF-8 but for a few bytes is damaged UTF-8 and nothing else.

    Raises:
        DataError: the file can't be read, or no encoding decodes it; names the byte and the line.
    """
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
    except OSError as error:
        raise fault(str(path), error.strerror or str(error), "a file that can be read") from error
    marked = next((name for mark, name in _MARKS if sample.startswith(mark)), None)
    if marked is not None:
        if broken := _first_broken(path, marked):
            raise _damaged(path, marked, *broken)
        return marked
    wide = _wide(sample)
    if wide and not _first_broken(path, wide):
        return wide
    broken = _first_broken(path, "utf-8")
    if broken is None:
        return "utf-8"
    around = _around(path, broken[0])
    if _mostly_utf8(sample) or _mostly_utf8(around):
        raise _damaged(path, "utf-8", *broken)
    if _mostly_gb2312(around) and _first_broken(path, "gb18030") is None:
        return "gb18030"
    guess = _guess(around)
    if guess and _first_broken(path, guess) is None:
        return guess
    raise _damaged(path, "utf-8", *broken)


def decode_all(path: Path) -> str:
    """Return the whole text of a small file, its encoding found."""
    encoding = find_encoding(path)
    return path.read_bytes().decode(encoding)


def _damaged(path: Path, encoding: str, offset: int, line: int, reason: str) -> DataError:
    return fault(
        str(path), f"bytes that are not {encoding} at byte offset {offset} ({reason})",
        "UTF-8, UTF-16 or GB18030 from the first byte to the last", line=line,
        hint=f"save the file as UTF-8 again, or look at that byte: `head -c {offset + 20} FILE | tail -c 40 | xxd`",
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _first_broken(path: Path, encoding: str) -> tuple[int, int, str] | None:
    """Return byte offset, line and reason of the first bytes that an encoding can't read; None where it reads all."""
    decoder = codecs.getincrementaldecoder(encoding)()
    fed = 0  # bytes given to the decoder
    line = 1
    try:
        for chunk in _chunks(path):
            before = len(decoder.getstate()[0])  # bytes of a character cut by the chunk's edge, given again
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, "ignore")
                return fed - before + error.start, line + good.count("\n"), error.reason
            fed += len(chunk)
        kept = len(decoder.getstate()[0])
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        return fed - kept + error.start, line, error.reason
    except UnicodeError as error:  # utf-16 with an odd number of bytes, and the like
        return fed, line, str(error)
    except OSError as error:
        raise fault(str(path), error.strerror or str(error), "a file that can be read") from error
    return None


def _around(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, offset - 16))
        return file.read(_SAMPLE_BYTES)


def _wide(sample: bytes) -> str:
    """Return utf-16-le or -be where zeros stand as they do in wide text, else nothing."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) < max(2, len(sample) // 20):
        return ""
    if odd > 8 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 8 * odd else ""


def _mostly_utf8(sample: bytes) -> bool:
    """Tell whether wrong bytes are few beside characters of several bytes that are right."""
    text = sample.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    right = sum(map(_beyond_ascii, text)) - wrong
    return right > 4 * wrong


def _beyond_ascii(character: str) -> bool:
    return character > "\x7f"


def _mostly_gb2312(sample: bytes) -> bool:
    """Tell whether bytes beyond ASCII come in the pairs of GB 2312 (0xA1 to 0xF7, then 0xA1 to 0xFE), nine of ten."""
    pairs = right = position = 0
    while position < len(sample) - 1:
        if sample[position] < 0x80:
            position += 1
            continue
        pairs += 1
        right += 0xA1 <= sample[position] <= 0xF7 and 0xA1 <= sample[position + 1] <= 0xFE
        position += 2
    return pairs > 0 and right >= 0.9 * pairs


def _guess(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    detect: Callable[[bytes], object] = from_bytes
    best = getattr(detect(sample), "best", lambda: None)()
    return str(best.encoding) if best is not None else ""
