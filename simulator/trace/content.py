"""What a trace file holds, as bytes and as text: bounded in size, whole, and in the one encoding that we read."""

import gzip
import hashlib
import io
import zlib
from pathlib import Path

from simulator.trace import job

MAX_BYTES = 2 << 30
"""Larger files are refused before they are read."""

GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path) -> bytes:
    """Read a whole file of bounded size, inflated if it is a gzip file."""
    file = str(path)
    try:
        if path.is_dir():
            raise job.TraceError("this is a folder", file=file, remedy="name one trace file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            remedy = "split it, or convert it to Parquet"
            raise job.TraceError(f"{size} bytes, at most {MAX_BYTES} are read", file=file, remedy=remedy)
        data = path.read_bytes()
    except OSError as error:
        raise job.TraceError(f"cannot be read ({error.strerror or error})", file=file) from error
    if data.startswith(GZIP_MAGIC):
        data = _inflated(file, data)
    if not data.strip():
        raise job.TraceError("the file is empty", file=file)
    return data


def sha256(data: bytes) -> str:
    """Return the hash by which reports name a trace."""
    return hashlib.sha256(data).hexdigest()


def text(file: str, data: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark; line ends become newlines."""
    remedy = "save the file as UTF-8"
    for mark in (b"\xff\xfe", b"\xfe\xff"):
        if data.startswith(mark):
            raise job.TraceError("the text is UTF-16", file=file, remedy=remedy)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise job.TraceError("a NUL byte: this is no text", file=file, line=line, remedy=remedy)
    try:
        words = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise job.TraceError("bytes that are not UTF-8", file=file, line=line, remedy=remedy) from error
    return words.replace("\r\n", "\n") if "\r" in words else words


def _inflated(file: str, data: bytes) -> bytes:
    """Return the content of a gzip file, of bounded size: a small file can hold a very large one."""
    try:
        inflated = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise job.TraceError(f"truncated or damaged gzip ({error})", file=file, remedy="copy the file again") from error
    if len(inflated) > MAX_BYTES:
        raise job.TraceError(f"more than {MAX_BYTES} bytes when inflated", file=file)
    return inflated
