"""How a cohort file says which raw files make up a table, and how their bytes become columns of text.

Only pydantic models (light imports). What the columns mean is `event_spec.py`; `files.py` finds the files,
`readers.py` reads them.
"""

import codecs
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from ehr_assets.cohorts.event_spec import ByRawText, Column, RawText
from ehr_assets.cohorts.patterns import file_regex
from ehr_assets.paths import leads_out
from ehr_assets.specs import Spec, closest


def _encoding(name: str) -> str:
    try:
        is_text = codecs.lookup(name)._is_text_encoding
    except LookupError:
        is_text = False
    if not is_text:  # base64, zip and their like are codecs, too
        raise ValueError(f"'{name}' is not an encoding; write e.g. utf-8, latin-1 or utf-16")
    return name


def _file(file: str) -> str:
    if leads_out(file):
        raise ValueError(f"'{file}' must be a path under the root of the raw tables, with forward slashes")
    file_regex(file)
    return file


def _candidates(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: v if isinstance(v, list | tuple) else [v] for k, v in value.items()}
    return value


Encoding = Annotated[str, AfterValidator(_encoding)]
# Relative to the root; the ending (.csv, .csv.gz, .parquet) is found by itself.
TableFile = Annotated[str, Field(min_length=1), AfterValidator(_file)]


class Lists(Spec):
    """Columns that hold several values in one text, such as ``12|80``: the row then makes events for each.

    The first values of the columns belong together, then the second ones, and so on; a column with one value
    has it in all of them, one with fewer values than the longest is null in the rest.

    `separator`: the text between values. `columns`: those that hold several.
    """

    separator: str = Field(min_length=1)
    columns: list[Column] = Field(min_length=1)


class FileSpec(Spec):
    """How a raw file, or several of the same kind, is read.

    `file` is a path under the root without its ending; a directory of that name stands for all tables in it.
    One that is there with two endings is an error: give the ending.
    ``{name}`` in it matches a part of a file's path and gives it as the column `name` (``{name:regex}``
    says what it may look like); ``*`` matches without a name. A column that some of several files lack is
    null there.

    `encoding`: one, or a list of two: bytes that are wrong in the first are read in the second.
    `skip_rows`: lines between the header and the data. `aliases`: new name → names to look for in the
    header, the first that is there counts; where none is written so, any case will do, as in the name of the
    file itself (PERSON.csv). Of columns with an equal name, ``name#2`` is the second. `optional_columns` are
    null where the header lacks them. `missing`: texts that mean nothing was recorded. `upper`: columns whose
    texts are turned to capitals. `recode`: column → raw text (after `upper`) → text (or null); it may give a
    sense to a text in `missing`. `lists`: columns that hold several values in one text. A column named in
    these words that no event reads is an error.
    """

    file: TableFile
    encoding: Annotated[
        list[Encoding],
        BeforeValidator(lambda v: [v] if isinstance(v, str) else v, json_schema_input_type=str | list[str]),
        Field(min_length=1, max_length=2),
    ] = Field(default=["utf-8"])
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None = '"'
    skip_rows: int = Field(default=0, ge=0)
    aliases: Annotated[
        dict[Column, list[Column]],
        BeforeValidator(_candidates, json_schema_input_type=dict[str, str | list[str]]),
    ] = Field(default={})
    optional_columns: list[Column] = Field(default=[])
    missing: list[RawText] = Field(default=[])
    upper: list[Column] = Field(default=[])
    recode: dict[Column, Annotated[dict[RawText, RawText | None], ByRawText]] = Field(default={})
    lists: Lists | None = None
    optional: bool = False

    def check_words(self, read: Collection[str], where: str = "") -> None:
        """Raises ValueError where a word is about a column that is not read: mostly another was meant."""
        lists = self.lists.columns if self.lists else []
        words = {"aliases": self.aliases, "upper": self.upper, "recode": self.recode, "lists": lists}
        for word, columns in words.items():
            if unread := sorted(set(columns) - set(read)):
                near = closest(unread[0], read)
                raise ValueError(
                    f"{where}`{word}` names the column '{unread[0]}', which no event reads.{near}"
                )
