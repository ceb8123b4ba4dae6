"""Metrics of predictions, for all resamples of the subjects at once. Pure numpy; nothing of tasks or files.

Every metric is made ready once from outcomes and scores (sorting, binning), which gives a `Kernel`: weights
of the rows in, one value per resample out. What cannot be estimated (one class, no rows) is NaN: never 0.5.
"""
