"""The code location's front door: what Dagster loads."""

from ehr_assets.build import build_project
from ehr_assets.private import keep_private
from ehr_assets.settings import Settings

keep_private()
project = build_project(Settings.from_env())
defs = project.definitions
