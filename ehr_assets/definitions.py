"""The code location's front door: what Dagster loads."""

from ehr_assets.build import build_definitions
from ehr_assets.settings import Settings

defs = build_definitions(Settings.from_env())
