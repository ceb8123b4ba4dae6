"""Settings that come from the environment, read once when definitions load.

EHR_HOME                 where datasets, the Dagster instance and MLflow live: a directory (default:
                         <checkout>/.ehr), or s3://bucket/prefix for the datasets and the logs of steps
EHR_CACHE                with EHR_HOME on S3: the directory that holds what is being written, what was read,
                         the instance, the audit log and provenance (back these up), a folder per address
                         (default: ~/.cache/ehr-assets)
EHR_POSTGRES_URL         a Postgres database for the Dagster instance (default: SQLite under EHR_HOME)
EHR_SPECS                further spec directories (os.pathsep-separated), each with cohorts/, tasks/,
                         corpora/, recipes/, grids/ and reports/ folders of YAML files; the recipes of
                         paper size are such a directory: ehr_assets/paper
EHR_OVERRIDES            JSON: {"<kind>/<spec>": {"dotted.key": value}}, laid over the YAML files
EHR_EXECUTOR             in_process (default), multiprocess, ray (each step a job on EHR_RAY_ADDRESS), or
                         kubernetes (each step a pod)
EHR_WORKERS              processes that one asset may fan out over (default: all cores; see fanout.py)
EHR_MEMORY_GB            memory that one asset may use (default 4)
EHR_RAY_ADDRESS          a Ray cluster, HOST:PORT of its head; the shards of an asset are worked off there
EHR_RAY_TASKS            how many of them at once (default: one per CPU of the cluster; see fanout.py)
EHR_HOSTS                ray: that cluster's nodes take a training's processes (default: see EHR_HOSTFILE)
EHR_HOST_SLOTS           how many one node takes (default: one per GPU, or one)
EHR_HOSTFILE             hosts that a training's processes are spread over, lines `name slots=n`, this one
                         first (default: this one alone)
EHR_REMOTE_SHELL         the command that runs another on one of them (default: ssh -o BatchMode=yes)
EHR_RETRAINING           JSON: what the schedule retrains and when, e.g. {"cohort": "synthetic_oncology",
                         "cron": "0 2 * * 0", "timezone": "Europe/Berlin"} (see jobs/retraining.py)
EHR_NOTIFY_URL           where failed runs are told: a webhook that takes JSON (default: the log alone)
MLFLOW_TRACKING_URI      where trainings are tracked (default: SQLite under EHR_HOME)
EHR_RAW_LINKS            follow: links in a raw root may lead out of it (cohorts/roots.py)
EHR_SHOW_MESSAGES        1: libraries' errors keep their words, which may quote the data (withheld.py)
EHR_ALLOW_FAILED_CHECKS  a reason; lets assets start although an upstream check failed (see lineage/guards)
"""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ehr_assets.addresses import S3, S3_VARIABLES, bucket_and_prefix, is_remote, without_user
from ehr_assets.credentials import refuse_secrets
from ehr_assets.errors import SpecError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
POSTGRES_VARIABLE = "EHR_POSTGRES_URL"
RETRAINING_VARIABLE = "EHR_RETRAINING"
NOTIFY_VARIABLE = "EHR_NOTIFY_URL"
EXECUTORS = ("in_process", "multiprocess", "ray", "kubernetes")
STORED = (
    *("EHR_HOME", "EHR_SPECS", "EHR_HOSTFILE", "EHR_REMOTE_SHELL", "EHR_ALLOW_FAILED_CHECKS"),
    RETRAINING_VARIABLE,
)
"""Their values are shown, and kept in manifests and in Dagster's stores."""


@dataclass(frozen=True)
class Settings:
    """Where things are and what is laid over the specs.

    Args:
        home: a local directory: EHR_HOME, or where that is an object store the folder of the cache for it.
        remote: the object store's address; empty where there is none.
        postgres: whether Dagster's instance lies in the database that EHR_POSTGRES_URL names.
    """

    home: Path
    spec_dirs: tuple[Path, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    executor: str = "in_process"
    tracking_uri: str = ""
    ray_address: str = ""
    train_on_ray: bool = False
    host_slots: int = 0
    hostfile: str = ""
    remote_shell: tuple[str, ...] = ("ssh", "-o", "BatchMode=yes")
    remote: str = ""
    postgres: bool = False
    retraining: str = ""
    notifies: bool = False

    @property
    def where(self) -> str:
        """EHR_HOME, as it was given."""
        return self.remote or str(self.home)

    @property
    def mlflow_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def tracking_from_env(self) -> bool:
        """Whether the environment holds the tracking URI, which may hold a password."""
        return bool(self.tracking_uri) and os.environ.get(TRACKING_VARIABLE) == self.tracking_uri

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        for name in STORED:
            refuse_secrets(env.get(name, ""), f"environment variable {name}", do="Give it by other means.")
        given = env.get("EHR_HOME") or str(PROJECT_ROOT / ".ehr")
        home, remote = (_cache_of(given, env), given.rstrip("/")) if is_remote(given) else (Path(given), "")
        executor = env.get("EHR_EXECUTOR", "in_process")
        if executor not in EXECUTORS:
            raise SpecError(
                f"'{executor}' is not an executor.",
                where="environment variable EHR_EXECUTOR",
                do=f"Use one of: {', '.join(EXECUTORS)}.",
            )
        ray = _ray(env, executor)
        dirs = tuple(Path(p).resolve() for p in env.get("EHR_SPECS", "").split(os.pathsep) if p)
        for d in dirs:
            if not d.is_dir():
                raise SpecError(
                    "The spec directory does not exist.", where=f"EHR_SPECS: {d}", do="Create it."
                )
        return cls(
            home=home.resolve(),
            spec_dirs=dirs,
            overrides=_overrides(env.get("EHR_OVERRIDES", "")),
            executor=executor,
            tracking_uri=env.get(TRACKING_VARIABLE, ""),
            hostfile=env.get("EHR_HOSTFILE", ""),
            remote_shell=tuple(shlex.split(env.get("EHR_REMOTE_SHELL", ""))) or cls.remote_shell,
            remote=remote,
            postgres=bool(env.get(POSTGRES_VARIABLE)),
            retraining=env.get(RETRAINING_VARIABLE, ""),
            notifies=bool(env.get(NOTIFY_VARIABLE)),
            **ray,
        )


def _cache_of(address: str, env: Mapping[str, str]) -> Path:
    """Of each address a folder of its own: what two stores hold under one name may differ."""
    if not S3.fullmatch(address):
        raise SpecError(
            "EHR_HOME is neither a local directory nor an address on S3.",
            where=f"environment variable EHR_HOME: {without_user(address)}",
            do=f"Give a path, or s3://bucket/prefix. The rest comes from the environment: {S3_VARIABLES}.",
        )
    base = Path(env["EHR_CACHE"]) if env.get("EHR_CACHE") else Path.home() / ".cache" / "ehr-assets"
    digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:12]
    return base / f"{bucket_and_prefix(address)[0]}-{digest}"


def _ray(env: Mapping[str, str], executor: str) -> dict[str, Any]:
    """What is said of a Ray cluster. SpecError: it is asked for, but not said where it is."""
    address, hosts, slots = (env.get(f"EHR_{name}", "") for name in ("RAY_ADDRESS", "HOSTS", "HOST_SLOTS"))
    if hosts not in ("", "ray"):
        raise SpecError(
            f"'{hosts}' does not say where training runs.",
            where="environment variable EHR_HOSTS",
            do="Set it to ray, or leave it out and name hosts in EHR_HOSTFILE.",
        )
    if slots and (not slots.isdecimal() or int(slots) < 1):
        raise SpecError(
            "EHR_HOST_SLOTS must be a positive whole number.",
            where="environment variable EHR_HOST_SLOTS",
            do="Set it to the processes that one node takes, or leave it out.",
        )
    if not address and "ray" in (executor, hosts):
        raise SpecError(
            "A Ray cluster is asked for, but not said where it is.",
            where="environment variable EHR_RAY_ADDRESS",
            do="Set it to HOST:PORT of the cluster's head, as `ray start --head` prints it.",
        )
    return {"ray_address": address, "train_on_ray": hosts == "ray", "host_slots": int(slots or 0)}


def _overrides(text: str) -> Mapping[str, Mapping[str, Any]]:
    if not text:
        return {}
    hint = 'Write e.g. {"recipes/smb_sft_demo": {"optimizer.lr": 0.0005}}.'
    try:
        data = json.loads(text)
    except json.JSONDecodeError as e:
        raise SpecError(f"The overrides are not JSON: {e.msg}.", where="EHR_OVERRIDES", do=hint) from None
    if not isinstance(data, dict) or not all(isinstance(v, dict) for v in data.values()):
        raise SpecError("The overrides must map spec names to mappings.", where="EHR_OVERRIDES", do=hint)
    refuse_secrets(data, "EHR_OVERRIDES")
    return data
