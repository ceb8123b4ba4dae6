"""How datasets are named: by their asset, and of a partitioned asset by the partition in brackets.

``smb_sft_demo/checkpoint``, ``smb_table6_demo/checkpoint[plain]``. Each partition is a dataset of its own in
every respect: its versions, its manifest, its checks, its place in an ancestry.
"""

import os


def dataset_name(asset: str, partition: str | None = None) -> str:
    return asset if partition is None else f"{asset}[{partition}]"


def asset_and_partition(name: str) -> tuple[str, str | None]:
    """The parts of a dataset's name."""
    asset, bracket, partition = name.partition("[")
    return asset, partition.removesuffix("]") if bracket else None


def launch_command(name: str) -> str:
    """What to type to have a dataset made and its checks run."""
    asset, partition = asset_and_partition(name)
    home = os.environ.get("DAGSTER_HOME")
    which = f" --partition {partition}" if partition else ""
    return f"{f'DAGSTER_HOME={home} ' if home else ''}dg launch --assets 'key:{asset}'{which}"
