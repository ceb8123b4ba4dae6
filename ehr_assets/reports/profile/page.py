"""The profile page of a cohort: one self-contained HTML file, and its numbers as `profile.json`.

Puts together what `tables.py` counted and `figures.py` drew; the look is the report's, with a
dark side. No scripts, nothing fetched, no subject id: equal inputs give equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ehr_assets.fanout import Machine
from ehr_assets.reports.profile import figures
from ehr_assets.reports.profile.tables import FEWEST, LAGS, Code, Profile, count_profile
from ehr_assets.reports.templates import HERE, environment

PAGE, NUMBERS = "profile.html", "profile.json"


def write_profile(
    title: str,
    description: str,
    meds_dir: Path,
    lineage: Sequence[Mapping[str, str]],
    out_dir: Path,
    machine: Machine,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes `profile.html` and `profile.json` into `out_dir`.

    Args:
        meds_dir: a meds_events directory.
        lineage: rows of the lineage table, all with the same keys.
        overrides: checks that were passed over on the way to this page; they head it.

    Returns the main counts.
    """
    profile = count_profile(meds_dir, machine)
    (out_dir / NUMBERS).write_text(json.dumps(profile.as_dict(), indent=1), encoding="utf-8")
    page = (
        environment()
        .get_template("profile/profile.html")
        .render(
            title=title,
            description=description,
            css="\n".join(
                (HERE / name).read_text(encoding="utf-8") for name in ("report.css", "profile/profile.css")
            ),
            p=profile,
            most=max((c.events for c in profile.codes), default=1),
            fewest=FEWEST,
            late=_late(profile),
            figures=_figures(profile),
            lineage=lineage,
            overrides=overrides,
        )
    )
    (out_dir / PAGE).write_text(page, encoding="utf-8")
    counts = ("subjects", "events", "codes", "deaths", "first_year", "last_year", "median", "quarantined")
    return {
        **{k: v for k in counts if (v := profile.totals[k]) is not None},
        "share_known_later_than_a_day": _late(profile) or 0.0,
        "codes_shown": len(profile.codes),
    }


def picture_png(profile_dir: Path) -> str:
    """Events by section and year of a written profile, as base64 PNG."""
    return figures.events_by_year_png(read_profile(profile_dir))


def read_profile(profile_dir: Path) -> Profile:
    """The numbers of a written profile."""
    data = json.loads((profile_dir / NUMBERS).read_text(encoding="utf-8"))
    data["codes"] = [Code(**code) for code in data["codes"]]
    data["years"] = {s: {int(y): n for y, n in by.items()} for s, by in data["years"].items()}
    return Profile(**data)


def _late(profile: Profile) -> float | None:
    """The share of timed events that were known more than a day after they happened."""
    total = sum(map(sum, profile.lags.values()))
    return (
        sum(sum(counts[LAGS.index("within a week") :]) for counts in profile.lags.values()) / total
        if total
        else None
    )


def _figures(profile: Profile) -> dict[str, str | None]:
    drawn = (
        "events_by_year",
        "follow_up",
        "ages",
        "splits",
        "with_section",
        "measurements",
        "quarantine",
        "lags",
    )
    return {name: getattr(figures, name)(profile) for name in drawn}
