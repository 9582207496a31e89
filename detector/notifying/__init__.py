"""Alerts on their way to people: what is said, when, to which service."""
