"""The file names of cohort specs: ``notes/{cancer:[a-z]+}/form_*`` as a regular expression with named parts.

Only the parsing (light: specs use it when definitions load); `files.py` looks for the files.
"""

import re

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::((?:[^{}]|\{[0-9,]+\})*))?\}|\*\*|\*")


_PAPERS = ("LICENSE", "README", "CHANGELOG", "SHA256SUMS", "MD5SUMS")  # .txt, but no tables


def looks_like_table(path: str) -> bool:
    """Whether a file under a root may be a raw table, to go by its name."""
    *_, name = parts = path.split("/")
    hidden = any(part.startswith((".", "_")) for part in parts)
    return name.endswith(ENDINGS) and not hidden and name.split(".")[0].upper() not in _PAPERS


def ending_of(path: str) -> str:
    """Which of the endings a path has; empty if none."""
    return next((e for e in sorted(ENDINGS, key=len, reverse=True) if path.endswith(e)), "")


def is_pattern(file: str) -> bool:
    """Whether a `file` of a spec may stand for several files."""
    return bool(_PLACEHOLDER.search(file))


def file_regex(file: str) -> re.Pattern[str]:
    """What the whole path under the root must look like, ending included.

    Raises:
        ValueError: an unbalanced brace, a name given twice, or a part that is no regular expression.
    """
    pattern, end = "", 0
    for match in _PLACEHOLDER.finditer(file):
        pattern += _literal(file, end, match.start())
        if match[1]:
            pattern += f"(?P<{match[1]}>{match[2] or '[^/]+'})"
        else:
            pattern += ".*" if match[0] == "**" else "[^/]*"
        end = match.end()
    pattern += _literal(file, end, len(file))
    if not file.endswith(ENDINGS):
        pattern += f"(?:{'|'.join(re.escape(e) for e in ENDINGS)})"
    try:
        return re.compile(pattern)
    except re.error as e:
        raise ValueError(f"'{file}' is not a file pattern: {e}") from None


def _literal(file: str, start: int, end: int) -> str:
    text = file[start:end]
    if "{" in text or "}" in text:
        raise ValueError(f"'{file}' is not a file pattern: write {{name}} or {{name:regex}}")
    return re.escape(text)
