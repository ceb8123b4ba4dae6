"""What is run: the runner behind the `ehr` command, jobs and schedules."""
