"""Report specs: which recipes and cohorts stand on one page. Light: read while definitions load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from ehr_assets.specs import Spec, parse_spec, read_yaml

SPECS = Path(__file__).parent / "specs"


class ReportSpec(Spec):
    """One report: the scores of `recipes` on `cohorts`, beside the baselines of those cohorts."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(min_length=1)
    recipes: tuple[str, ...] = Field(min_length=1)
    cohorts: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("recipes", "cohorts")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name is listed twice")
        return names


def load_report(path: str | Path, overrides: Mapping[str, Any] | None = None) -> ReportSpec:
    """Reads and validates a report spec; dotted `overrides` win over the file.

    Raises:
        SpecError: naming the file, the key and the reason.
    """
    return parse_spec(ReportSpec, read_yaml(Path(path)), str(path), overrides)
