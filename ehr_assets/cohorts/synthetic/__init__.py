"""Raw tables for cohorts that do not exist: seeded simulators."""
