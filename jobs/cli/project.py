"""The project as the commands see it: definitions, instance, statuses; opened once per command."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from dagster import AssetKey, DagsterInstance

from ehr_assets.catalog import unknown
from ehr_assets.cohorts.origin import source_changes
from ehr_assets.lineage.datasets import Dataset, DatasetStore
from jobs.instance import open_instance
from jobs.status import AssetStatus, Graph, asset_statuses, locate


class Project:
    """Everything a command needs, loaded when first asked for."""

    def __init__(self) -> None:
        # The very definitions that a run loads, so that nothing is built twice.
        from ehr_assets.definitions import project

        self.settings, self.catalog, self.gates = project.settings, project.catalog, project.gates
        self.store = DatasetStore(self.settings.home)
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

    def reports_for(self, cohort: str, recipe: str | None) -> list[AssetKey]:
        """The report assets that `ehr run` brings up to date.

        Raises:
            SpecError: no such cohort or recipe, or no report shows them.
        """
        if cohort not in self.catalog.cohorts:
            raise unknown("cohort", cohort, self.catalog.cohorts, "--cohort")
        on_cohort = self.catalog.recipes_on(cohort)
        if recipe is not None and recipe not in self.catalog.recipes:
            raise unknown("recipe", recipe, self.catalog.recipes, "--recipe")
        if recipe is not None and cohort not in self.catalog.corpus_of(recipe).cohorts:
            raise unknown(f"recipe on cohort '{cohort}' named", recipe, on_cohort, "--recipe")
        recipes: Sequence[str] = [recipe] if recipe else on_cohort
        reports = self.catalog.reports_on(recipes)
        if not reports:
            raise unknown(f"report for cohort '{cohort}'", recipe or cohort, self.catalog.reports, "reports/")
        return [AssetKey([name, "report"]) for name in reports]
