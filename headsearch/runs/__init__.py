"""Run directories: their files, tables, snapshots, storage; signals and throughput of a run."""
