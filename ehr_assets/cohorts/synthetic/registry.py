"""Simulators by the name a cohort spec uses in `source: {kind: synthetic, simulator: <name>}`.

Light on purpose: a simulator's own modules are imported only when it runs, so that specs can be checked
against the names while definitions load.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ehr_assets.errors import SpecError
from ehr_assets.specs import closest

if TYPE_CHECKING:
    from ehr_assets.cohorts.synthetic.life import Simulator

SIMULATORS = ("oncology", "pe", "icu")
"""Each has a module of its name here, which holds its `SIMULATOR`."""


def simulator(name: str) -> "Simulator":
    """The simulator `name`. Raises SpecError where there is none."""
    _require(name)
    return import_module(f"ehr_assets.cohorts.synthetic.{name}").SIMULATOR


def simulator_sources(name: str) -> Sequence[str]:
    """The modules that decide what the simulator writes, as `lineage.hashing.code_version` takes them."""
    _require(name)
    return "cohorts/synthetic/simulate.py", f"cohorts/synthetic/{name}.py"


def _require(name: str) -> None:
    if name not in SIMULATORS:
        raise SpecError(
            f"There is no simulator '{name}'.{closest(name, SIMULATORS)}",
            where="source.simulator",
            do=f"Use one of: {', '.join(SIMULATORS)}.",
        )
