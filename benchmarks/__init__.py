"""Measurements. Each is a command, `python -m benchmarks.NAME`, that prints one JSON line last."""
