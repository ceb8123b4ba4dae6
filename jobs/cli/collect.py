"""`ehr collect`: removes what is needed no more, or says what it would remove."""

from collections import Counter
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from ehr_assets.lineage.collection import Policy
from ehr_assets.settings import Settings
from jobs.collect import collect
from jobs.instance import open_instance


def show_collection(console: Console, *, keep: int, older_than: int, dry_run: bool) -> None:
    """Collects, and prints what went and why the rest stays."""
    settings = Settings.from_env()

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True, highlight=False)

    with open_instance(settings) as instance:
        policy = Policy(keep, timedelta(days=older_than))
        done = collect(instance, settings, policy, dry_run=dry_run, say=say)
    found = done.plan
    if dry_run:
        for place in found.remove:
            say(f"Would remove {place}")
    for place in found.unreadable:
        say(f"Left alone, its manifest cannot be read: {place}")
    table = Table(box=None, pad_edge=False, show_header=False)
    what = "would go" if dry_run else "removed"
    table.add_row(f"datasets {what}", f"{len(found.remove)}, {found.bytes / 1e6:,.1f} MB")
    table.add_row(f"half datasets {what}", str(len(found.remnants)))
    table.add_row(f"idle work folders {what}", str(len(done.work)))
    table.add_row(f"staging folders {what}", str(len(done.staging)))
    for why, count in Counter(_kind(why) for why in found.kept.values()).most_common():
        table.add_row("datasets kept", f"{count}: {why}")
    console.print(table)


def _kind(why: str) -> str:
    """A reason without what it says of the single dataset."""
    return "made into one that is kept" if why.startswith("made into") else why
