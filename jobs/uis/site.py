"""What nginx and systemd are told: the templates under infra/, filled in for one installation."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ehr_assets.errors import SpecError
from ehr_assets.settings import PROJECT_ROOT
from jobs.uis.accounts import GROUPS

INFRA = PROJECT_ROOT / "infra"
SERVER = re.compile(r"https?://[\w.\-]+(:\d+)?")
PLAIN = re.compile(r"[\w./:\-\[\]* ]*")


@dataclass(frozen=True)
class Site:
    """One address, and what stands behind it.

    Attributes:
        listen: address and port of nginx, such as 127.0.0.1:8080.
        engineers, auditors: loopback ports of the two Dagster webservers.
        mlflow: base URL of the MLflow server.
        server_name: the host name that people type; "_" for any.
        certificate, key: PEM files; without them nginx speaks plain HTTP, which is for the loopback alone.
        sign_on: base URL of an oauth2-proxy; without one, people come by name and password.
        pages: the datasets' directory, whose reports, profiles and dossiers are shown; none without.
        user: whom nginx' worker runs as, where root starts it.
    """

    listen: str
    engineers: int
    auditors: int
    mlflow: str
    server_name: str = "_"
    certificate: str = ""
    key: str = ""
    sign_on: str = ""
    pages: str = ""
    user: str = ""

    def __post_init__(self) -> None:
        for name in ("mlflow", "sign_on"):
            if (url := getattr(self, name)) and not SERVER.fullmatch(url):
                raise SpecError(
                    "This is not the plain address of a server.",  # not shown: it may hold a password
                    where=name,
                    do="Write it like http://host:5000, without user, password and path.",
                )
        for name in ("listen", "server_name", "certificate", "key", "pages", "user"):
            if not PLAIN.fullmatch(getattr(self, name)):
                raise SpecError("nginx' configuration cannot hold this.", where=name, do="Leave out signs.")
        if bool(self.certificate) != bool(self.key):
            raise SpecError("A certificate goes with its key.", where="certificate, key", do="Give both.")


def render_site(site: Site, folder: Path) -> Path:
    """Writes nginx' files into a folder that its owner alone can read; returns the one to start nginx with.

    Accounts that lie there stay as they are.
    """
    if not PLAIN.fullmatch(str(folder)):
        raise SpecError(
            "nginx' configuration cannot hold this path.", where=str(folder), do="Choose another."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "tmp").mkdir(mode=0o700, exist_ok=True)
    access = "access_sign_on" if site.sign_on else "access_password"
    templates = {"nginx": "nginx", "ehr": "ehr", **({"sign_on": "sign_on"} if site.sign_on else {})}
    for name, template in templates.items():
        _write(folder / f"{name}.conf", f"nginx/{template}.conf.jinja", site=site, folder=folder)
    for people in GROUPS:
        target = folder / f"access_{people}.conf"
        _write(target, f"nginx/{access}.conf.jinja", people=people, folder=folder)
        (folder / f"{people}.htpasswd").touch(mode=0o600)  # nginx reads it at each request; empty: nobody
    return folder / "nginx.conf"


def render_units(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], folder: Path
) -> list[Path]:
    """Writes a systemd unit for each command; returns their files. The variables hold no secret."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = []
    for name, command in commands.items():
        files.append(folder / f"ehr-{name}.service")
        values = {"command": shlex.join(command), "environment": environment, "root": PROJECT_ROOT}
        _write(files[-1], "systemd/unit.service.jinja", name=name, **values)
    return files


def _write(file: Path, template: str, **values: object) -> None:
    environment = Environment(
        loader=FileSystemLoader(INFRA),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    file.write_text(environment.get_template(template).render(**values), encoding="utf-8")
    file.chmod(0o600)
