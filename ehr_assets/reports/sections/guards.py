"""What the leak guards found, scope by scope; every warning and failure by name."""

from pathlib import Path

import polars as pl

from ehr_assets.leakage.findings import read_findings
from ehr_assets.reports.blocks import Block, Cell, Group, Head, Look, Row, Section, Table, Text, absent
from ehr_assets.reports.inputs import Inputs

MOST = 40
"""Findings that are listed one by one; more are counted."""


def guards(inputs: Inputs) -> Section:
    """Of all cohorts and recipes of the report together."""
    title = "Leak guards"
    given: list[tuple[str, Path | None]] = [(f"{c.name}/leak_audit", c.audit) for c in inputs.cohorts]
    for recipe in inputs.recipes:
        given += zip(recipe.assets("leak_audit"), (run.audit for run in recipe.runs), strict=True)
    audits = {name: audit for name, audit in given if audit}
    missing = [name for name, audit in given if not audit]
    blocks: list[Block] = []
    if audits:
        findings = pl.concat(
            [read_findings(folder).with_columns(pl.lit(name).alias("of")) for name, folder in audits.items()]
        )
        sources = inputs.sources(*audits)
        blocks += _by_guard(findings, list(audits), sources)
        blocks += _by_name(findings, sources)
    if missing:
        blocks.append(absent("Leak guards", f"Not made: {', '.join(missing)}."))
    return Section(title, blocks)


def _by_guard(findings: pl.DataFrame, scopes: list[str], sources: list[str]) -> list[Block]:
    rows = []
    for guard in sorted(set(findings["guard"])):
        cells = [
            _verdict(findings.filter(pl.col("guard") == guard, pl.col("of") == scope)) for scope in scopes
        ]
        rows.append(Row(str(guard).replace("_", " ").capitalize(), cells))
    failed = findings.filter(pl.col("verdict") == "fail").height
    warned = findings.filter(pl.col("verdict") == "warn").height
    said = f"{findings.height} findings of {len(rows)} guards: {failed} fail, {warned} to look at."
    return [
        Text(said),
        Table(
            "Leak guards",
            "Guard",
            [Head(scope.replace("/leak_audit", ""), words=True) for scope in scopes],
            [Group(None, rows)],
            sources,
            "What each guard concluded, and of how many things it was asked. A guard that fails stops "
            "everything after "
            "it; a dash: not asked there.",
        ),
    ]


def _verdict(findings: pl.DataFrame) -> Cell:
    """The worst verdict, and how many there are of it."""
    if not findings.height:
        return Cell("–", look="none")
    looks: dict[str, Look] = {"fail": "bad", "warn": "warn", "ok": ""}
    for verdict, look in looks.items():
        if n := findings.filter(pl.col("verdict") == verdict).height:
            return Cell(verdict, f"{n} of {findings.height}" if findings.height > 1 else "", look)
    return Cell("–", look="none")


def _by_name(findings: pl.DataFrame, sources: list[str]) -> list[Block]:
    named = findings.filter(pl.col("verdict") != "ok").sort(
        "verdict", "guard", "of", "about", nulls_last=True
    )
    if not named.height:
        return []
    rows = [
        Row(
            str(r["guard"]).replace("_", " ").capitalize(),
            [
                Cell(r["verdict"], look="bad" if r["verdict"] == "fail" else "warn"),
                Cell(r["scope"]),
                Cell(r["about"] or "all of it"),
                Cell(_number(r["measured"])),
                Cell(_number(r["limit"])),
                Cell(r["note"] or ""),
            ],
        )
        for r in named.head(MOST).iter_rows(named=True)
    ]
    words = ("Verdict", "In", "About")
    return [
        Table(
            "What the guards name",
            "Guard",
            [
                *(Head(w, words=True) for w in words),
                Head("Measured"),
                Head("Limit"),
                Head("Note", words=True),
            ],
            [Group(None, rows)],
            sources,
            f"The first {MOST} of {named.height}." if named.height > MOST else "",
            folded=named.height > 12,
        )
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
