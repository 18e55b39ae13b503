"""Statistics of a run: ranks, intervals, rank correlation, gains, seed noise, calibration."""
