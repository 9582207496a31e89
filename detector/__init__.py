"""What a batch becomes, and the daemon around it: joins `consumers` and `models`."""

__version__ = "0.1.0"
