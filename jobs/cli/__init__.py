"""The `ehr` command: a thin face on Dagster runs in the instance that the UI shows."""
