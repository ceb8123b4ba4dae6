"""Latent dynamics of one subject: the hidden state that simulated records are noisy views of.

What belongs here: the state, its equations of motion, and the hazard of death. Nothing about codes, tables or
any one disease: a simulator (oncology, pulmonary embolism, intensive care) supplies `Dynamics`, `Traits` and
treatments, says how long one step is and what its field calls the state, and turns the state into events.

State, all in natural-log-like units, rates per step (a week in oncology, a day after a pulmonary embolism, an
hour in intensive care):

    drift       = growth * (1 - burden / capacity) - potency * exp(-resistance)
    velocity   += velocity_pull * (drift - velocity) + noise        (inertia: treatment acts with a delay)
    burden     += velocity + noise
    resistance += resistance_rate while treated, + noise            (so a working therapy stops working)
    reserve    += reserve_pull * (setpoint - reserve) - toxicity - wear * max(burden - wear_from, 0) + noise
    site_k      = burden + offset_k,  offset_k pulled towards the subject's affinity for site k

The future burden depends on the velocity and on where it is heading (the drift), so a view of the burden at
one time says how much disease there is and not where it is going. The state is never told to the records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

STATE = ("burden", "velocity", "reserve", "resistance", "drift", "toxicity")


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Constants of a disease, shared by all its subjects; rates are per `step`.

    `names`: what the field calls members of `STATE`, where it is another word (of columns of the truth).
    """

    sites: tuple[str, ...]
    step: timedelta
    names: Mapping[str, str] = field(default_factory=dict)
    capacity: float = 4.0
    floor: float = -4.0
    velocity_pull: float = 0.2
    velocity_noise: float = 0.003
    burden_noise: float = 0.012
    resistance_noise: float = 0.015
    cross_resistance: float = 0.45
    reserve_pull: float = 0.04
    reserve_noise: float = 0.05
    reserve_wear: float = 0.012
    wear_from: float = 1.2
    site_pull: float = 0.02
    site_noise: float = 0.04
    hazard_base: float = 0.0004
    hazard_burden: float = 1.75
    hazard_reserve: float = 1.2

    @property
    def noises(self) -> int:
        """Standard normal numbers that one step takes."""
        return 4 + len(self.sites)


@dataclass(frozen=True, slots=True)
class Traits:
    """What is constant in one subject."""

    growth: float
    resistance_rate: float
    reserve_setpoint: float
    site_affinity: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Treatment:
    """A regimen as it acts on one subject: pull on the velocity and drain on the reserve, per step."""

    potency: float
    toxicity: float


class Course:
    """The latent course of one subject, advanced step by step.

    `noise` has one row of `Dynamics.noises` standard normal numbers per step; drawing them beforehand keeps
    the course independent of how many random numbers the emission of events takes.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        traits: Traits,
        noise: Sequence[Sequence[float]],
        *,
        burden: float,
        reserve: float,
        site_offsets: Sequence[float],
    ) -> None:
        self.dynamics, self.traits = dynamics, traits
        self.burden, self.reserve = burden, reserve
        self.velocity = traits.growth
        self.resistance = 0.0
        self.treatment: Treatment | None = None
        self.offsets = list(site_offsets)
        self._noise = iter(noise)
        self._treated_before = False

    @property
    def drift(self) -> float:
        """The velocity that the present treatment and resistance are heading to (per step)."""
        d = self.dynamics
        growth = self.traits.growth * (1.0 - max(self.burden, 0.0) / d.capacity)
        if self.treatment is None:
            return growth
        return growth - self.treatment.potency * math.exp(-self.resistance)

    @property
    def toxicity(self) -> float:
        """Present drain on the reserve (per step); 0 off treatment."""
        return self.treatment.toxicity if self.treatment else 0.0

    @property
    def sites(self) -> list[float]:
        """Log burden at each of `Dynamics.sites`."""
        return [self.burden + offset for offset in self.offsets]

    @property
    def hazard(self) -> float:
        """Probability of death in the coming step."""
        d = self.dynamics
        exponent = d.hazard_burden * max(self.burden, 0.0) - d.hazard_reserve * self.reserve
        return 1.0 - math.exp(-d.hazard_base * math.exp(min(exponent, 8.0)))

    def start(self, treatment: Treatment) -> None:
        """Starts a regimen. Resistance to earlier ones carries over only in part."""
        if self._treated_before:
            self.resistance *= self.dynamics.cross_resistance
        self._treated_before = True
        self.treatment = treatment

    def adjust(self, treatment: Treatment) -> None:
        """Changes the dose of the running regimen; its resistance stays."""
        self.treatment = treatment

    def stop(self) -> None:
        """Ends the running regimen."""
        self.treatment = None

    def strike(self, burden: float, velocity: float) -> None:
        """An acute event (an embolism, an infection): burden and velocity are what it makes them."""
        d = self.dynamics
        self.burden, self.velocity = min(max(burden, d.floor), d.capacity), velocity

    def remove(self, log_reduction: float, site: int, site_offset: float) -> None:
        """Surgery: the burden falls at once, and `site` keeps only `site_offset` of it."""
        self.burden = max(self.burden - log_reduction, self.dynamics.floor)
        self.offsets[site] = site_offset

    def step(self) -> None:
        """Advances by one step."""
        d, t = self.dynamics, self.traits
        n_burden, n_velocity, n_reserve, n_resistance, *n_sites = next(self._noise)
        self.velocity += d.velocity_pull * (self.drift - self.velocity) + d.velocity_noise * n_velocity
        if self.treatment is not None:
            gain = t.resistance_rate + d.resistance_noise * n_resistance
            self.resistance = max(self.resistance + gain, 0.0)
        wear = d.reserve_wear * max(self.burden - d.wear_from, 0.0)
        recovery = d.reserve_pull * (t.reserve_setpoint - self.reserve)
        self.reserve += recovery - self.toxicity - wear + d.reserve_noise * n_reserve
        burden = self.burden + self.velocity + d.burden_noise * n_burden
        self.burden = min(max(burden, d.floor), d.capacity)
        for k, n in enumerate(n_sites):
            self.offsets[k] += d.site_pull * (t.site_affinity[k] - self.offsets[k]) + d.site_noise * n

    def truth(self) -> tuple[float, ...]:
        """The present state in the order of `truth_columns`: nothing here knows the future."""
        state = (self.burden, self.velocity, self.reserve, self.resistance, self.drift, self.toxicity)
        return (*state, *self.sites)


def truth_columns(dynamics: Dynamics) -> tuple[str, ...]:
    """Names of the values of `Course.truth`."""
    state = (f"z_{dynamics.names.get(name, name)}" for name in STATE)
    return (*state, *(f"z_site_{site.lower()}" for site in dynamics.sites))
