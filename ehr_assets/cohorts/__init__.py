"""Raw tables: cohort specs, table readers, synthetic simulators."""
