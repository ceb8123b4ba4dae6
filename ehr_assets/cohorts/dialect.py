"""How a raw file is written, guessed from its beginning: encoding, delimiter, quotes, further header lines.

Only guesses, for a first cohort file that a person then reads; nothing that runs a cohort comes here.
"""

import codecs
import csv
import io
import re
from collections import Counter
from typing import Any

import pyarrow as pa

from ehr_assets.cohorts.file_spec import FileSpec
from ehr_assets.cohorts.files import RawFile
from ehr_assets.cohorts.roots import unreachable
from ehr_assets.errors import RawTableError

_LOOK_BYTES = 4 << 20
_LINES = 200
_DELIMITERS = (",", "\t", ";", "|")
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MORE_HEADERS = 3
_DATA = re.compile(r"[-+]?\d[\d.,:/\- TZ]*$")  # what a header line hardly holds: numbers, dates, times


def guess_dialect(file: RawFile) -> FileSpec:
    """How `file` is read; what is not said in its bytes has its default.

    Raises:
        RawTableError: it cannot be read.
    """
    how: dict[str, Any] = {"file": file.path}
    if file.ending == ".parquet":
        return FileSpec(**how)
    data = _beginning(file)
    how["encoding"] = _encoding(data)
    text = data.decode(how["encoding"][0], errors="replace").removeprefix("\ufeff")
    lines = [line for line in text.splitlines()[: _LINES + 1] if line][:_LINES]
    how["delimiter"], how["quote"] = _shape(lines)
    how["skip_rows"] = _more_headers(_records(lines, how["delimiter"], how["quote"]))
    return FileSpec(**how)


def _beginning(file: RawFile) -> bytes:
    try:
        with file.open() as source:
            if file.path.endswith(".gz") and file.bytes:
                return bytes(pa.CompressedInputStream(source, "gzip").read(_LOOK_BYTES))
            return bytes(source.read(_LOOK_BYTES))
    except OSError as e:
        if getattr(e, "errno", None):
            raise unreachable(file.where, e) from None
        raise RawTableError(
            "The raw table is not a sound gzip file.",
            where=file.where,
            do="Copy or download it again; compare checksums.",
        ) from None


def _encoding(data: bytes) -> list[str]:
    for mark, name in _BOMS:
        if data.startswith(mark):
            return [name]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)  # the end may be cut within a character
    except UnicodeDecodeError:
        return ["utf-8", "latin-1"]
    return ["utf-8"]


def _shape(lines: list[str]) -> tuple[str, str | None]:
    """Delimiter and quote: those under which most lines have as many fields as the header, and many."""
    best, found = (0.0, 0), (",", '"')
    for quote in ('"', None):
        for delimiter in _DELIMITERS:
            records = _records(lines, delimiter, quote)
            width = len(records[0]) if records else 0
            same = Counter(map(len, records))[width] / max(len(records), 1)
            # Quotes are meant unless the lines fit together clearly better without them.
            score = (round(same, 1), width) if width > 1 else (0.0, 0)
            if score > best and (quote or score[0] > best[0]):
                best, found = score, (delimiter, quote)
    return found


def _records(lines: list[str], delimiter: str, quote: str | None) -> list[list[str]]:
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO("\n".join(lines)), delimiter=delimiter, quotechar=quote or '"', quoting=quoting
    )
    try:
        return list(reader)
    except csv.Error:
        return []


def _more_headers(records: list[list[str]]) -> int:
    """Lines under the header that describe it: words in columns that otherwise hold numbers and dates."""
    if len(records) < _MORE_HEADERS + 3:
        return 0
    rest = records[_MORE_HEADERS + 1 :]
    data = [
        i
        for i in range(len(records[0]))
        if (filled := [r[i] for r in rest if i < len(r) and r[i].strip()])
        and sum(bool(_DATA.match(v)) for v in filled) > 0.8 * len(filled)
    ]
    count = 0
    for record in records[1 : _MORE_HEADERS + 1]:
        words = [i for i in data if i < len(record) and re.match(r"[A-Za-z]", record[i])]
        if len(words) < 2 or len(words) < len(data) / 2:
            break
        count += 1
    return count
