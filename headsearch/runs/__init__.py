"""Run directories: what a run writes, how it is read back, snapshots, Optuna storages."""
