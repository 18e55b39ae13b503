"""The search: an Optuna study whose candidates train together in cohorts."""
