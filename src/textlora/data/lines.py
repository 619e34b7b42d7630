"""Bytes of a text file to lines: compression undone, encoding recognised, each fault named by its place.

Nothing is guessed in silence: UTF-8 is the rule, a mark or NULs in every second byte tell UTF-16, and Windows-1252 is
taken only where UTF-8 fails and the bytes spell Western words; `encoding` says so. Everything else is an error.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, TypeVar, cast

from textlora.errors import DamagedError, DataError, ResourceError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

LONGEST_LINE = 1 << 28  # characters; what unpacks to more without a line break is no table of texts
HEAD = 4096  # bytes that tell marks, NULs and other kinds of file
CHUNK = 1 << 20  # bytes looked at together

# First bytes of what people call .csv although it isn't -> what it is, what to do.
OTHER_KINDS: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("an Excel workbook or a zip archive", "save the sheet as CSV UTF-8, or unpack the archive"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook (.xls)", "save the sheet as CSV UTF-8"),
    b"\x1f\x8b": ("compressed with gzip", "let its name end on .gz, as in data.csv.gz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "let its name end on .zst, as in data.csv.zst"),
    b"BZh": ("compressed with bzip2", "unpack it"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it"),
    b"PAR1": ("a Parquet file", "let its name end on .parquet"),
    b"ARROW1": ("an Arrow file", "let its name end on .arrow"),
    b"\x80\x02": ("a Python pickle", "let its name end on .pkl"),
    b"\x80\x03": ("a Python pickle", "let its name end on .pkl"),
    b"\x80\x04\x95": ("a Python pickle", "let its name end on .pkl"),
    b"\x80\x05\x95": ("a Python pickle", "let its name end on .pkl"),
    b"%PDF": ("a PDF document", "export its table as CSV"),
    b"{\\rtf": ("an RTF document", "save it as plain text"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"version https://git-lfs": ("a Git LFS pointer, not the data itself", "fetch the data with `git lfs pull`"),
}
HTML = (b"<!doctype html", b"<html")  # what a download gives in place of a file when it wants a log-in

MARKS = {  # byte order marks, the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# Signs that bytes are no Windows-1252. Each is seldom in Western text and frequent in what it stands for.
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_SURROGATES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # halves of pairs, written as if they were characters
_ODD = re.compile(
    rb"[a-z\xdf-\xf6\xf8-\xff][\xc0-\xd6\xd8-\xde\x8a\x8c\x8e\x9f]"  # a capital inside a word: broken UTF-8, Mac
    rb"|[\xc0-\xd6\xd8-\xf6\xf8-\xff]{3}"  # accents only: Cyrillic, Greek, Chinese
    rb"|[A-Za-z][\xa1-\xa9\xab-\xb3\xb6\xb8\xb9\xbb-\xbf][A-Za-z]"  # a sign inside a word: Polish
    rb"|[a-z][\x82-\x84\x86-\x89\x8b\x98\x9b]"  # an opening quote after a letter: DOS
)
_WORD = re.compile(r"[^\W\d_]*[^\W\d_\x00-\x7f]+[^\W\d_]*")


@dataclass(frozen=True)
class Encoding:
    """How a file's bytes are characters; `note` says it where it isn't plain UTF-8."""

    codec: str
    note: str = ""


def lines(path: Path) -> Iterator[str]:
    """Lines of a text file, ends kept, marks and compression gone.

    Raises DataError for NUL, bytes of no known encoding and other kinds of file, DamagedError for broken compression.
    """
    codec = encoding(path).codec
    with _reading(path), io.TextIOWrapper(_unpacked(path), encoding=codec, newline="") as handle:
        # newline="": the csv module sees line breaks inside quotes as they are
        number = 0
        try:
            while line := handle.readline(LONGEST_LINE):
                number += 1
                if "\0" in line or len(line) == LONGEST_LINE:
                    raise _line_fault(path, number, line)
                yield line
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path.name} is not {codec.upper()} throughout: line {number + 1}: {error.reason}",
                "save the file as UTF-8 and try again",
            ) from None


def encoding(path: Path) -> Encoding:
    """The encoding of a text file. Raises as `lines` does."""
    return cached(_encoding, path)


def ending(path: Path) -> str:
    """A file's ending in small letters without that of its compression: `.csv` of Train.CSV.gz."""
    return _plain(path).suffix.lower()


def stem(path: Path) -> str:
    """A file's name without its endings: `Train` of Train.CSV.gz."""
    return _plain(path).stem


def compression(path: Path) -> str:
    """gzip, zstd or ""."""
    return COMPRESSIONS.get(path.suffix.lower(), "")


def check_size(path: Path) -> None:
    """Raises DataError for a file that is missing or empty."""
    if not path.is_file():
        raise DataError(f"there is no file {path}", "check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty: expected rows of text", "give a file with rows")


Found = TypeVar("Found")


def cached(find: Callable[[Path], Found], path: Path) -> Found:
    """`find(path)`, remembered for as long as the file stays the same."""
    check_size(path)
    stat = path.stat()
    return cast(Found, _remembered(find, path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=64)
def _remembered(find: Callable[[Path], object], path: Path, size: int, changed: int) -> object:
    return find(path)


# --------------------------------------------------------------------------------------------------------------- bytes


def _plain(path: Path) -> Path:
    return path.with_suffix("") if compression(path) else path


def _unpacked(path: Path) -> BinaryIO:
    """The file's bytes as a stream."""
    check_size(path)
    try:
        if compression(path) == "gzip":
            return cast(BinaryIO, gzip.open(path))
        if compression(path) == "zstd":
            import pyarrow

            return io.BufferedReader(cast(io.RawIOBase, pyarrow.input_stream(str(path), compression="zstd")))
        return path.open("rb")
    except ImportError:
        raise ResourceError("reading zstd needs pyarrow, which isn't installed", "pip install pyarrow") from None
    except OSError as error:
        raise ResourceError(f"{path} can't be opened: {error.strerror}", "check the path and its permissions") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Faults of compression become our own; an unreadable plain file is left to the caller's caller."""
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        if not compression(path) or isinstance(error, ResourceError):
            raise
        raise DamagedError(
            f"{path.name} is no whole {compression(path)} file: {str(error).rstrip('.')}", "fetch or write it again"
        ) from None


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


# ------------------------------------------------------------------------------------------------------------ encoding


def _encoding(path: Path) -> Encoding:
    with _reading(path), _unpacked(path) as stream:
        head = stream.read(HEAD)
    if not head:
        raise DataError(f"{path.name} is empty once unpacked: expected rows of text", "give a file with rows")
    _refuse_other_kinds(path, head)
    marked = next((codec for mark, codec in MARKS.items() if head.startswith(mark)), "")
    if marked:
        return Encoding(marked, f"{path.name}: read as {marked.upper()}, as its byte order mark says")
    unmarked = _utf16_by_nuls(head)
    if unmarked:
        return Encoding(unmarked, f"{path.name}: read as {unmarked.upper()}: every second byte is NUL")
    return _eight_bit(path)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    for start, (kind, fix) in OTHER_KINDS.items():
        if head.startswith(start):
            raise DataError(f"{path.name} is {kind}, whatever its name says", fix)
    if ending(path) != ".txt" and head.lstrip().lower().startswith(HTML):
        raise DataError(f"{path.name} is a web page, not a table", "download the file itself (a log-in may be needed)")


def _utf16_by_nuls(head: bytes) -> str:
    """UTF-16 without a mark: its ASCII letters have NULs in the one place or the other, never in both."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) % 2 == 0 and 5 * max(even, odd) >= len(head) // 2 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return ""


def _eight_bit(path: Path) -> Encoding:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _reading(path), _unpacked(path) as stream:
            for chunk in _chunks(stream):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        example = "" if error.reason == "unexpected end of data" else _western_example(path)
        if example:
            return Encoding("cp1252", f'{path.name}: read as Windows-1252 (cp1252), as it is not UTF-8: "{example}"')
        raise DataError(
            f"{path.name} is neither UTF-8 nor plainly Windows-1252: {_first_bad_byte(path)}",
            "save the file as UTF-8 and try again",
        ) from None
    return Encoding("utf-8-sig")


def _western_example(path: Path) -> str:
    """The first word with an accent (or its line's end) if the bytes read well as Windows-1252, else "".

    Where most other bytes are valid UTF-8 it is UTF-8 with a fault, and where words look odd it is another code page.
    """
    whole = broken = odd = 0
    example = ""
    with _reading(path), _unpacked(path) as stream:
        while line := stream.readline(CHUNK):
            if line.isascii():
                continue
            if _UNDEFINED.search(line) or _SURROGATES.search(line):
                return ""
            decoded = line.decode("utf-8", errors="replace")
            faults = decoded.count("\ufffd")
            broken += faults
            whole += sum(not c.isascii() for c in decoded) - faults
            odd += len(_ODD.findall(line))
            example = example or (_example(line.decode("cp1252")) if faults else "")
    return example if broken > 4 * whole and broken >= 100 * odd else ""


def _example(line: str) -> str:
    word = _WORD.search(line)
    return word[0] if word else " ".join(line.split())[:40]


def _first_bad_byte(path: Path) -> str:
    """Offset, value and line of the first byte that can't be decoded as UTF-8."""
    offset = 0
    with _reading(path), _unpacked(path) as handle:
        for number, line in enumerate(handle, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"byte 0x{line[error.start]:02x} at offset {offset + error.start} (line {number})"
            offset += len(line)
    return "it ends inside a character"


def _line_fault(path: Path, number: int, line: str) -> DataError:
    if "\0" in line:
        return DataError(
            f"{path.name}: line {number} holds a NUL byte, which no text has", "remove it, or save the file as UTF-8"
        )
    return DataError(f"{path.name}: line {number} has more than {LONGEST_LINE:,} characters", "break it into rows")
