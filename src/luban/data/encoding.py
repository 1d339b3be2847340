"""Finds the encoding in which a whole file can be read, and names the byte where it can't."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from luban.data.problems import fault
from luban.errors import DataError

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 18
_GB18030 = re.compile(rb"[\x81-\xfe][0-9][\x81-\xfe][0-9]|[\x80-\xff][\x00-\xff]")
_SYMBOL_IN_WORD = re.compile(r"[^\W\d_][¡-¿×÷][^\W\d_]")
_CONTROLS = re.compile(rb"[\x80-\x9f]")
"""Bytes that are no characters in Latin-1, and half of the double bytes elsewhere."""
_WORD = re.compile(r"[^\W\d_]+")
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
        _log.warning("%s: no UTF-8, UTF-16 or GB18030; read as %s, by its letters", path, guess)
        return guess
    raise _damaged(path, "utf-8", *broken)


def decode_all(path: Path) -> str:
    """Return the whole text of a small file, its encoding found."""
    encoding = find_encoding(path)
    return path.read_bytes().decode(encoding)


def _damaged(path: Path, encoding: str, offset: int, line: int, reason: str) -> DataError:
    return fault(
        str(path),
        f"bytes that are not {encoding} at byte offset {offset} ({reason})",
        "UTF-8, UTF-16 or GB18030 from the first byte to the last",
        line=line,
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
    """Tell whether wrong bytes are few beside characters of several bytes that are right.

    Those of two bytes come about by chance in other encodings, so that they weigh less.
    """
    text = sample.decode("utf-8", "replace")
    n_wrong = text.count("\ufffd")
    n_long = sum(character > "\u07ff" for character in text) - n_wrong
    n_short = sum("\x7f" < character <= "\u07ff" for character in text)
    return n_long + n_short / 4 > n_wrong


def _mostly_gb2312(sample: bytes) -> bool:
    """Tell whether nine of ten characters beyond ASCII are of GB 2312, or of four bytes as emoji in GB18030."""
    found = _GB18030.findall(sample)
    right = sum(len(character) == 4 or (0xA1 <= character[0] <= 0xF7 and character[1] >= 0xA1) for character in found)
    if not found or right < 0.9 * len(found):
        return False
    # EUC-KR and EUC-JP use the same bytes: there Hangul has no lead above 0xC8, and kana have 0xA4 and 0xA5.
    leads = [character[0] for character in found if len(character) == 2]
    if len(leads) < 50:
        return True
    n_kana = sum(lead in (0xA4, 0xA5) for lead in leads)
    return n_kana < 0.2 * len(leads) and sum(lead > 0xC8 for lead in leads) >= 0.1 * len(leads)


def _guess(sample: bytes) -> str:
    """Return what charset-normalizer takes the bytes for; of Western code pages, which are alike, cp1252."""
    from charset_normalizer import from_bytes

    western = sample.decode("cp1252", "replace")
    matches = from_bytes(sample)
    best = matches.best()
    if not _CONTROLS.search(sample) and _in_latin_words(western) and (best is None or not _is_latin(str(best))):
        # Any code page has some letter for the few bytes beyond ASCII: only those that make it a Latin one are likely.
        best = next((one for one in matches if _is_latin(str(one))), None)
        if best is None:
            return "cp1252"
    if best is None:
        return ""
    if _is_latin(str(best)) and "\ufffd" not in western and not _SYMBOL_IN_WORD.search(western):
        return "cp1252"
    return best.encoding


def _is_latin(text: str) -> bool:
    return not any(character > "\u024f" and character.isalpha() for character in text)


def _in_latin_words(western: str) -> bool:
    """Tell whether nine of ten words with letters beyond ASCII have as many of ASCII: no other script mixes so."""
    words = [word for word in _WORD.findall(western) if not word.isascii()]
    mixed = sum(len(word) == 1 or sum(map(str.isascii, word)) * 2 >= len(word) for word in words)
    return bool(words) and mixed >= 0.9 * len(words)
