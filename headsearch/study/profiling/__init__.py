"""What steps, heads and searches cost: measured costs, forecasts, benchmarks."""
