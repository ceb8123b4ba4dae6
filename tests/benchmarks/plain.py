"""Both serializations the plain way: pandas, one subject after the other.

Written from what the formats promise, without the room `corpora/`: what its texts are compared with in the
tests, and its speed in the benchmark. Each twice: in pandas throughout, and lean, one pass over the rows of a
subject as Python tuples.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain, groupby
from operator import attrgetter

import pandas as pd

SMB_SECTIONS = (
    "conditions",
    "observations",
    "measurements",
    "procedures",
    "drugs",
    "death",
    "notes",
)


def known(events: pd.DataFrame, t: datetime) -> pd.DataFrame:
    """The rows of a MEDS frame that were known at t."""
    return events[events["available_time"].isna() | (events["available_time"] <= t)]


def smb_texts(
    events: pd.DataFrame, unit_of: Mapping[str, str], *, static_rows: bool = False
) -> dict[int, str]:
    """subject_id → the smb text of all its rows."""
    groups = events.groupby("subject_id", sort=False)
    return {int(str(s)): smb_text(rows, unit_of, static_rows=static_rows) for s, rows in groups}


def smb_text(rows: pd.DataFrame, unit_of: Mapping[str, str], *, static_rows: bool = False) -> str:
    rows = rows.sort_values("time", kind="stable")  # those without time come last
    if not static_rows:
        rows = rows[rows["time"].notna()]
    front = rows["section"] == "demographics"
    dated = rows[~front & rows["time"].notna()]
    parts = ["\n".join(_smb_lines(rows[front], unit_of))] if front.any() else []
    days = []
    for date, day in dated.groupby(dated["time"].dt.date):
        lines = [f"\n[{date:%Y-%m-%d}]"]
        for section in SMB_SECTIONS:
            lines += _smb_lines(day[day["section"] == section], unit_of)
        days.append("\n".join(lines))
    return "\n\n".join([*parts, "\n".join(days)] if days else parts)


def _smb_lines(rows: pd.DataFrame, unit_of: Mapping[str, str]) -> list[str]:
    lines = []
    for key, group in rows.groupby("code", sort=False):
        code = str(key)
        if "birth" in code.lower() and group["time"].notna().iloc[0]:
            lines.append(f"Birth: {group['time'].iloc[0]:%Y-%m-%d}")
            continue
        values = list(_values(group))
        unit = f" ({unit_of[code]})" if unit_of.get(code) else ""
        lines.append(f"{code}{unit}: {', '.join(values[-5:])}" if values else code)
    return list(dict.fromkeys(lines))


def _values(group: pd.DataFrame) -> Iterator[str]:
    for number, text in zip(group["numeric_value"], group["text_value"], strict=True):
        if pd.notna(number):
            yield f"{number:.2f}"
        elif pd.notna(text) and text != "":
            yield text


def tagged_texts(
    events: pd.DataFrame, name_of: Mapping[str, str], unit_of: Mapping[str, str]
) -> dict[int, str]:
    """subject_id → the tagged text of all its rows."""
    groups = events.groupby("subject_id", sort=False)
    return {int(str(s)): tagged_text(rows, name_of, unit_of) for s, rows in groups}


def tagged_text(rows: pd.DataFrame, name_of: Mapping[str, str], unit_of: Mapping[str, str]) -> str:
    births = rows["code"] == "MEDS_BIRTH"
    events = rows[~births].sort_values(["available_time", "time"], kind="stable", na_position="first")
    static = events["available_time"].isna()
    head = [_tagged_event(row, name_of, unit_of) for row in events[static].itertuples()]
    timed = events[~static]
    birth = rows.loc[births & rows["time"].notna(), "time"]
    if len(birth) and len(timed):
        age = (timed["available_time"].iloc[0] - birth.iloc[0]) // timedelta(days=365.25)
        head.append(f"\nAge: {min(max(age, 0), 150)}")
    text = ["<demographics>", *head, "</demographics>"]
    before = None
    for moment, block in timed.groupby("available_time"):
        if before is not None:
            text.append(f"+{_duration(moment - before)}")
        before = moment
        runs = (block["section"] != block["section"].shift()).cumsum()
        for _, run in block.groupby(runs):
            section = run["section"].iloc[0]
            shown = [_tagged_event(row, name_of, unit_of) for row in run.itertuples()]
            text += [f"<{section}>", *shown, f"</{section}>"]
    return "".join(text)


def _tagged_event(row, name_of: Mapping[str, str], unit_of: Mapping[str, str]) -> str:
    text = "\n" + _short(name_of.get(row.code) or row.code, 120)
    if pd.notna(row.numeric_value):
        number = f"{round(row.numeric_value, 2):.2f}".rstrip("0").rstrip(".")
        text += f": {'0' if number == '-0' else number}"
        if unit_of.get(row.code):
            text += f" {_short(unit_of[row.code], 40)}"
    elif pd.notna(row.text_value) and row.text_value.strip():
        text += f": {_short(row.text_value, 200)}"
    if row.available_time - row.time > timedelta(days=1):
        text += f" @-{_duration(row.available_time - row.time)}"
    return text


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _duration(delta: timedelta) -> str:
    hours, days = delta / timedelta(hours=1), delta / timedelta(days=1)
    if hours < 1:
        minutes = int(delta // timedelta(minutes=5)) * 5
        return f"{minutes or 1}m"
    if days < 1:
        return f"{int(hours)}h"
    if days < 60:
        return f"{int(days)}d"
    if days < 365.25:
        return f"{int(days // (365.25 / 12))}mo"
    tenths = int(days // 36.525)
    return f"{tenths / 10:.1f}".removesuffix(".0") + "y"


def smb_texts_lean(events: pd.DataFrame, unit_of: Mapping[str, str]) -> dict[int, str]:
    """As `smb_texts` (static rows dropped); rows in the order of a MEDS frame."""
    front: dict[int, dict] = defaultdict(lambda: defaultdict(list))
    days: dict[int, dict] = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    subjects = {}
    for row in events.itertuples():
        subject = subjects.setdefault(row.subject_id, row.subject_id)
        if row.time is pd.NaT:
            continue
        lines = (
            front[subject] if row.section == "demographics" else days[subject][row.time.date()][row.section]
        )
        lines[row.code].append(row)
    texts = {}
    for subject in subjects:
        parts = ["\n".join(_lean_lines(front[subject], unit_of))] if subject in front else []
        dated = []
        for date, sections in days[subject].items():
            found = [_lean_lines(sections[s], unit_of) for s in SMB_SECTIONS if s in sections]
            dated.append("\n".join([f"\n[{date}]", *chain.from_iterable(found)]))
        texts[subject] = "\n\n".join([*parts, "\n".join(dated)] if dated else parts)
    return texts


def _lean_lines(codes: Mapping[str, list], unit_of: Mapping[str, str]) -> list[str]:
    lines = {}
    for code, rows in codes.items():
        if "birth" in code.lower():
            lines[f"Birth: {rows[0].time.date()}"] = None
            continue
        shown = []
        for row in rows:
            if row.numeric_value == row.numeric_value and row.numeric_value is not None:
                shown.append(f"{row.numeric_value:.2f}")
            elif row.text_value:
                shown.append(row.text_value)
        unit = f" ({unit_of[code]})" if unit_of.get(code) else ""
        lines[f"{code}{unit}: {', '.join(shown[-5:])}" if shown else code] = None
    return list(lines)


def tagged_texts_lean(
    events: pd.DataFrame, name_of: Mapping[str, str], unit_of: Mapping[str, str]
) -> dict[int, str]:
    """As `tagged_texts`."""
    order = ["subject_id", "available_time", "time"]
    texts: dict[int, str] = {}
    ordered = events.sort_values(order, kind="stable", na_position="first")
    for subject, rows in groupby(ordered.itertuples(), key=attrgetter("subject_id")):
        head, body, born, first = ["<demographics>"], [], None, None
        before, section = None, None
        for row in rows:
            if row.code == "MEDS_BIRTH":
                born = row.time if born is None or row.time < born else born
                continue
            if row.available_time is pd.NaT:
                head.append(_tagged_event(row, name_of, unit_of))
                continue
            if before is None:
                first = row.available_time
            if row.available_time != before or row.section != section:
                if section is not None:
                    body.append(f"</{section}>")
                if before is not None and row.available_time != before:
                    body.append(f"+{_duration(row.available_time - before)}")
                before, section = row.available_time, row.section
                body.append(f"<{section}>")
            body.append(_tagged_event(row, name_of, unit_of))
        if section is not None:
            body.append(f"</{section}>")
        if born is not None and first is not None:
            age = (first - born) // timedelta(days=365.25)
            head.append(f"\nAge: {min(max(age, 0), 150)}")
        texts[int(subject)] = "".join([*head, "</demographics>", *body])
    return texts
