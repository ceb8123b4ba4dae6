"""How pages are rendered: the templates of this room, and the filters that all of them use."""

from pathlib import Path

import jinja2

from ehr_assets.reports.small_cells import number

HERE = Path(__file__).parent


def environment(folder: Path = HERE) -> jinja2.Environment:
    """Templates of a folder; those of this room can be included."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    return environment
