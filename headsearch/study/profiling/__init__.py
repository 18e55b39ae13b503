"""Measured costs of steps, heads and searches: benchmark, step profiler, memory, forecast."""
