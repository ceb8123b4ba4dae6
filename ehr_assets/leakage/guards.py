"""Which guards an audit holds, and in a sentence what each proves. Light: checks are named after them."""

COHORT_GUARDS = {
    "persons_in_one_split": "No person is in two splits, under whatever subject id.",
    "known_when_declared": "Events keep the cohort's `availability`, and none was known before it happened.",
    "no_near_duplicates": "No record stands under another subject in another split, moved in time or not.",
    "features_without_future": "Features of sampled nodes are the same when all that came later is deleted.",
    "planted_future_changes_nothing": "Nodes and features are the same with a unique future planted.",
    "no_single_feature_tells": "No single feature has an AUROC above 0.98 on held-out nodes.",
    "permuted_labels_at_chance": "Fitted to permuted outcomes, a logistic regression finds nothing.",
    "outcomes_known_at_nodes": "In how many records outcome codes are known at the node: told, not refused.",
}

RECIPE_GUARDS = {
    "persons_in_one_split": "No person is in two splits, over all cohorts that the model has seen.",
    "no_near_duplicates": "No record of one cohort stands in another split of the same or another cohort.",
    "planted_future_changes_nothing": "The text at sampled nodes is the same with a unique future planted.",
    "newest_known_in_window": "Every window ends with the newest event known at its node.",
    "no_single_feature_tells": "No single dimension of S(t) has an AUROC above 0.98 on held-out nodes.",
    "permuted_labels_at_chance": "Fitted to permuted outcomes, a probe finds nothing on held-out nodes.",
}
