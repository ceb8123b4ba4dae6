"""The tables that probes, baselines and their comparison write: one schema each, and nothing else."""

import pyarrow as pa

METRICS_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("task", pa.string()),
        ("category", pa.string()),
        ("indication", pa.string()),  # null = all
        ("horizon_days", pa.int64()),
        ("probe", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),  # null = not estimable
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),  # evaluated nodes in `split`
        ("n_positive", pa.int64()),  # or with the event; 0 in regression
        ("n_subjects", pa.int64()),
        ("split", pa.string()),
        ("subgroup", pa.string()),
        ("seed", pa.int64()),  # null = the mean over several
    ]
)

PREDICTIONS_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("task", pa.string()),
        ("kind", pa.string()),  # binary, time_to_event, regression
        ("probe", pa.string()),
        ("seed", pa.int64()),
        ("node_id", pa.string()),
        ("split", pa.string()),  # tuning, held_out
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("indication", pa.string()),
        ("boolean_value", pa.bool_()),
        ("predicted_boolean_value", pa.bool_()),
        ("predicted_boolean_probability", pa.float32()),
        ("duration_days", pa.float64()),
        ("status", pa.int8()),  # nodes/frames.py: 0 censored, 1 event, 2 competing
        ("risk", pa.float32()),  # of time_to_event: log hazard, higher is sooner
        ("numeric_value", pa.float64()),
        ("predicted_numeric_value", pa.float32()),
    ]
)
"""One row per method, task and evaluable node. Columns of other kinds than the task's are null."""

FITS_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("task", pa.string()),
        ("kind", pa.string()),
        ("probe", pa.string()),
        ("seed", pa.int64()),
        ("note", pa.string()),  # why there is no model; null = there is one
        ("chosen", pa.string()),  # its settings and its threshold, as JSON
        ("n_train", pa.int64()),
        ("n_train_positive", pa.int64()),  # or with the event; null in regression
        ("n_tuning", pa.int64()),
    ]
)
"""One row per method and task, those that could not be fitted included."""

MEANS_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("probe", pa.string()),
        ("metric", pa.string()),
        ("by", pa.string()),  # all, category, indication
        ("group", pa.string()),  # null where by is all
        ("value", pa.float64()),  # mean over tasks, then over seeds
        ("sd_tasks", pa.float64()),
        ("sd_seeds", pa.float64()),
        ("ci_low", pa.float64()),  # of the mean, over resamples of subjects
        ("ci_high", pa.float64()),
        ("n_tasks", pa.int64()),  # those that every method in the means could score
        ("n_seeds", pa.int64()),
    ]
)

DIFFERENCES_SCHEMA = pa.schema(
    [
        ("cohort", pa.string()),
        ("task", pa.string()),  # null = mean over the tasks that both score
        ("metric", pa.string()),
        ("recipe_a", pa.string()),
        ("probe_a", pa.string()),
        ("recipe_b", pa.string()),
        ("probe_b", pa.string()),
        ("difference", pa.float64()),  # a - b
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("p", pa.float64()),
        ("p_adjusted", pa.float64()),
        ("family", pa.string()),  # what p_adjusted is corrected over, and how
        ("n", pa.int64()),
        ("n_subjects", pa.int64()),
    ]
)

CEILING_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("probe", pa.string()),
        ("task", pa.string()),  # null = mean over such tasks
        ("fraction", pa.float64()),  # (AUROC - 0.5) / (the oracle's - 0.5)
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("oracle", pa.float64()),  # its AUROC, or the mean of it
        ("n_tasks", pa.int64()),
    ]
)
"""Only tasks on which the interval of the oracle lies above 0.55: below, the fraction means nothing."""

SUBGROUPS_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("probe", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("name", pa.string()),  # sex, age_band, race, indication, …
        ("group", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("gap", pa.float64()),  # to everybody else
        ("gap_low", pa.float64()),
        ("gap_high", pa.float64()),
        ("n", pa.int64()),
        ("n_positive", pa.int64()),
        ("n_subjects", pa.int64()),
    ]
)

RELIABILITY_SCHEMA = pa.schema(
    [
        ("recipe", pa.string()),
        ("cohort", pa.string()),
        ("probe", pa.string()),
        ("task", pa.string()),
        ("bin", pa.int64()),
        ("predicted", pa.float64()),  # mean probability in the bin
        ("observed", pa.float64()),  # share of positives in the bin
        ("n", pa.int64()),  # predictions, those of all seeds
    ]
)
