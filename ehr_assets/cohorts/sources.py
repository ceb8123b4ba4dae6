"""The bytes of a raw CSV file as checked UTF-8, plain or gzipped, in any declared encoding.

Damage is found here and told apart: truncated, corrupt, other encoding (with the line). Records and
columns are the business of `csv_files.py`.
"""

import codecs
import io
import zlib
from collections.abc import Sequence

import pyarrow as pa

from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.roots import unreachable
from ehr_assets.errors import RawTableError

CHUNK = 1 << 20
NUL_SIGN = "\ufdd0"  # a Unicode noncharacter, meant for such internal use
_BOMS = (  # longest first: UTF-32-LE starts like UTF-16-LE
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = (
    (b"\x1f\x8b", "a gzip file", "so that it ends in .csv.gz"),
    (b"PAR1", "a Parquet file", "so that it ends in .parquet"),
    (b"PK\x03\x04", "a zip file or an Excel workbook", ""),
)


class CsvSource(io.RawIOBase):
    """A file-like object over a CSV file that gives UTF-8 without a byte-order mark and blank lines above the
    header, then `tail`.

    NUL characters come as `NUL_SIGN` (`with_nuls` tells whether any came): pyarrow's parser (25.0) overlooks
    quotes and delimiters within eight bytes behind a NUL.

    Args:
        file: plain, or gzipped if it ends in .gz.
        encodings: that the file is written in; of two, the second for the bytes that are wrong in the first.
        tail: bytes to append.

    Reading raises RawTableError; since readers in between may disguise it, it is also kept in `failure`.
    """

    def __init__(self, file: RawFile, encodings: Sequence[str] = ("utf-8",), tail: bytes = b"") -> None:
        self.where, self.encoding = file.where, encodings[0]
        self.failure: RawTableError | None = None
        self.with_nuls = False
        self.size = file.bytes
        try:
            self._file = file.open()
        except OSError as e:  # it was there when the files were looked for
            raise unreachable(file.where, e) from None
        self._gzip = file.path.endswith(".gz")
        # Not Python's gzip: this one is faster, and tells a truncated stream from a corrupt one.
        self._bytes = pa.CompressedInputStream(self._file, "gzip") if self._gzip and self.size else self._file
        name = codecs.lookup(self.encoding).name
        errors = _fallback(encodings[1]) if len(encodings) > 1 else "strict"
        self._decoder = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)(errors)
        self._tail, self._line, self._ready, self._ended, self._started = tail, 1, b"", False, False
        self._begun = False  # with the header

    @property
    def position(self) -> int:
        """Bytes of the file read so far (of the compressed file, if it is one)."""
        return 0 if self._file.closed else self._file.tell()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, except at the end: blocks must not depend on how the file is packed."""
        parts, have = [self._ready], len(self._ready)
        while (size < 0 or have < size) and not self._ended:
            parts.append(self._next())
            have += len(parts[-1])
        data = b"".join(parts)
        cut = len(data) if size < 0 else size
        self._ready = data[cut:]
        return data[:cut]

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._bytes.close()
            self._file.close()
        super().close()

    def _next(self) -> bytes:
        raw = self._raw()
        self._ended = not raw
        try:
            text = self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as e:
            bad = e.object[: e.start] if isinstance(e.object, bytes) else b""
            raise self._fail(*self._other_encoding(self._line + bad.count(b"\n"))) from None
        except UnicodeError:  # UTF-16 and UTF-32 without their mark
            raise self._fail(*self._other_encoding(self._line)) from None
        if "\0" in text:
            text, self.with_nuls = text.replace("\0", NUL_SIGN), True
        self._line += text.count("\n")
        if not self._begun:
            text = text.lstrip("\r\n")
            self._begun = bool(text)
        data = text.encode("utf-8")
        return data + self._tail if self._ended else data

    def _raw(self) -> bytes:
        try:
            raw = bytes(self._bytes.read(CHUNK))
        except (OSError, EOFError, zlib.error) as e:
            if not self._gzip or getattr(e, "errno", None) or "AWS Error" in str(e):
                self.failure = unreachable(f"{self.where}, near line {self._line}", e)
                raise self.failure from None
            if "runcated" in str(e):
                reason, do = "is a truncated gzip file", "Copy or download it again; compare checksums."
            else:
                reason, do = "is not a sound gzip file", "Copy or download it again; compare checksums."
            raise self._fail(
                f"The raw table {reason}.", f"{self.where}, near line {self._line}", do
            ) from None
        if not self._started:
            self._started = True
            for mark, kind, ending in _OTHERS:
                if raw.startswith(mark):
                    raise self._fail(
                        f"The raw table is named like a CSV file but is {kind}.",
                        self.where,
                        f"Name it {ending}." if ending else "Save it as CSV.",
                    )
            for mark, name in _BOMS:
                if raw.startswith(mark) and name not in codecs.lookup(self.encoding).name:
                    raise self._fail(*self._other_encoding(1, name))
        return raw

    def _other_encoding(self, line: int, found: str | None = None) -> tuple[str, str, str]:
        seems = f"; its first bytes are those of {found}" if found else ""
        return (
            f"The raw table is not written in {self.encoding}{seems}.",
            f"{self.where}, line {line}",
            f"Set `encoding: {found or 'latin-1'}` (or what it is) at this table in the spec, or convert it; "
            "where only some of its bytes are in another encoding, list both: `encoding: [utf-8, latin-1]`.",
        )

    def _fail(self, what: str, where: str, do: str) -> RawTableError:
        self.failure = RawTableError(what, where=where, do=do)
        return self.failure


def _fallback(encoding: str) -> str:
    """The name of an error handler that reads the bytes which are wrong as `encoding`."""
    name = f"ehr-{codecs.lookup(encoding).name}"

    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        wrong = error.object[error.start : error.end]
        return bytes(wrong).decode(encoding, errors="replace"), error.end

    codecs.register_error(name, handle)
    return name
