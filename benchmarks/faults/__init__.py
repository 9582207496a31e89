"""Faults injected into running daemons, and what became of every record: `python -m benchmarks.faults`."""
