"""Order of candidates, intervals, rank correlation, gains, calibration."""
