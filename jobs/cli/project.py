"""The project as the commands see it: definitions, instance, statuses; opened once per command."""

from collections.abc import Collection, Mapping
from functools import cached_property

from dagster import AssetKey, DagsterInstance

from ehr_assets.catalog import unknown
from ehr_assets.cohorts.origin import source_changes
from ehr_assets.lineage.datasets import Dataset
from jobs.instance import open_instance
from jobs.status import AssetStatus, Graph, asset_statuses, locate
from resources.object_store import open_store


class Project:
    """Everything a command needs, loaded when first asked for."""

    def __init__(self) -> None:
        # The very definitions that a run loads, so that nothing is built twice.
        from ehr_assets.definitions import project

        self.settings, self.catalog, self.gates = project.settings, project.catalog, project.gates
        self.store = open_store(self.settings.home, self.settings.remote)
        self.graph = Graph(project.definitions)

    @cached_property
    def instance(self) -> DagsterInstance:
        return open_instance(self.settings)

    def statuses(self, thorough: Collection[AssetKey] = ()) -> dict[AssetKey, AssetStatus]:
        """The status of every asset.

        Args:
            thorough: assets whose files, and whose sources outside the store, are compared by content. That
                reads all of them; without it a changed byte goes unnoticed here (never where it is used).
        """
        found = asset_statuses(self.instance, self.graph, self.store, self.gates, thorough=thorough)
        changed = {}
        for name, cohort in self.catalog.cohorts.items():
            key = AssetKey([name, "raw_tables"])
            dataset = found[key].dataset if key in thorough else None
            if dataset and (reason := source_changes(cohort, self.store.home / dataset)):
                changed[key] = reason
        if not changed:
            return found
        return asset_statuses(self.instance, self.graph, self.store, self.gates, changed, thorough)

    def dataset(self, statuses: Mapping[AssetKey, AssetStatus], name: str) -> Dataset:
        """The newest dataset of an asset, verified.

        Raises:
            DatasetError: never materialized, or altered.
        """
        status = locate(statuses, name)
        return self.store.open(name, str(status.dataset), data_version=status.data_version)

    def reports_for(self, cohort: str, recipe: str | None) -> list[str]:
        """The reports that `ehr run --cohort` brings up to date.

        Raises:
            SpecError: no such cohort or recipe, or no report shows them.
        """
        if cohort not in self.catalog.cohorts:
            raise unknown("cohort", cohort, self.catalog.cohorts, "--cohort")
        if recipe is not None and recipe not in self.catalog.recipes:
            raise unknown("recipe", recipe, self.catalog.recipes, "--recipe")
        if recipe is not None and cohort not in self.catalog.corpus_of(recipe).cohorts:
            on_cohort = [r for r in self.catalog.recipes if cohort in self.catalog.corpus_of(r).cohorts]
            raise unknown(f"recipe on cohort '{cohort}' named", recipe, on_cohort, "--recipe")
        reports = self.catalog.reports_on(cohort, recipe)
        if not reports:
            raise unknown(f"report for cohort '{cohort}'", recipe or cohort, self.catalog.reports, "reports/")
        return reports

    def report_named(self, name: str) -> str:
        """Raises SpecError where there is no such report."""
        if name not in self.catalog.reports:
            raise unknown("report", name, self.catalog.reports, "--report")
        return name
