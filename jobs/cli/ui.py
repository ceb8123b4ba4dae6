"""`ehr ui`: Dagster and MLflow for engineers and for auditors, on paths of their own behind nginx."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ehr_assets.settings import Settings

app = typer.Typer(help="Dagster and MLflow behind nginx: engineers and auditors on different paths.")
console = Console()

Group = Annotated[str, typer.Argument(help="engineers or auditors.")]
Name = Annotated[str, typer.Argument(help="Of the person.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Of the address on this machine.")] = 8080,
    daemon: Annotated[
        bool, typer.Option(help="Also run schedules, sensors and queued runs; once per installation.")
    ] = True,
) -> None:
    """Start the UIs on this machine; Ctrl-C ends all of them."""
    if context.invoked_subcommand is not None:
        return
    from jobs.abandoned import close_dead_runs
    from jobs.instance import open_instance
    from jobs.uis.servers import loopback_site, run_uis

    settings = Settings.from_env()
    with open_instance(settings) as instance:  # makes its tables, which servers side by side would both make
        close_dead_runs(instance, settings)
    address = f"http://127.0.0.1:{port}"

    def ready() -> None:
        console.print(f"Engineers: {address}/engineers/  {address}/engineers/mlflow/", soft_wrap=True)
        console.print(f"Auditors:  {address}/audit/  {address}/audit/mlflow/", soft_wrap=True)

    run_uis(settings, loopback_site(settings, port), ready, daemon=daemon)


@app.command()
def account(
    group: Group,
    name: Name,
    remove: Annotated[bool, typer.Option("--remove", help="Take it away instead.")] = False,
) -> None:
    """Make an account, or give it another password, which is asked for."""
    from jobs.uis.accounts import accounts_file, remove_account, set_account
    from jobs.uis.servers import ui_folder

    folder = ui_folder(Settings.from_env())
    file = accounts_file(folder, group)
    if remove:
        remove_account(folder, group, name)
    else:
        set_account(folder, group, name, typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    console.print(f"Wrote {file}.", soft_wrap=True, highlight=False)


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(help="Where the files go, as nginx will see it.")],
    listen: Annotated[str, typer.Option(help="nginx' address and port.")] = "443",
    server_name: Annotated[str, typer.Option(help="The host name that people type.")] = "_",
    certificate: Annotated[str, typer.Option(help="A PEM file; with --key, nginx speaks TLS.")] = "",
    key: Annotated[str, typer.Option(help="The certificate's key.")] = "",
    sign_on: Annotated[
        str, typer.Option(help="An oauth2-proxy, such as http://127.0.0.1:4180, instead of passwords.")
    ] = "",
    pages: Annotated[
        str, typer.Option(help="$EHR_HOME/datasets, to show reports, profiles and dossiers as pages.")
    ] = "",
    engineers: Annotated[int, typer.Option(help="Port of the engineers' webserver.")] = 3001,
    auditors: Annotated[int, typer.Option(help="Port of the auditors' webserver.")] = 3002,
    mlflow: Annotated[str, typer.Option(help="The MLflow server.")] = "http://127.0.0.1:5000",
) -> None:
    """Write nginx' files and systemd units for a machine of your own, and start nothing."""
    from jobs.uis.servers import public_environment, server_commands
    from jobs.uis.site import Site, render_site, render_units

    settings = Settings.from_env()
    site = Site(listen, engineers, auditors, mlflow, server_name, certificate, key, sign_on, pages)
    place = folder.resolve()
    render_site(site, place)
    render_units(server_commands(site, settings), public_environment(settings), place / "systemd")
    console.print(f"Wrote {place}. Include {place}/ehr.conf in nginx' http.", soft_wrap=True, highlight=False)
