"""Measurements as ratios against an honest reference in the same run: `make bench`, or with names after
`python -m tests.benchmarks` only some of them. Nothing here passes or fails; nothing here is a test."""
