"""A search or a verification whose cohorts and solo runs train on an engine (Ray)."""
