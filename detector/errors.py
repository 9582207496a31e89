"""What can go wrong apart from the broker (`consumers.errors`), by what to do about it.

OffnominalError
├── SettingsError      a setting is wrong: nothing starts
├── TrainingError      no sound model came of it: the one in service stays
│   └── NotEnoughRows      says how many there were and how many are needed
├── BundleError        a stored version is damaged, or made for something else: the one in service stays
├── SnapshotError      what a partition remembered cannot be brought back: it begins anew
├── StoreError         the model store cannot be read or written
├── NotSent            a service did not take a message: it is tried again
└── TooManyInvalid     a partition brings too many records that cannot be scored: the daemon stops
"""

from __future__ import annotations


class OffnominalError(Exception):
    """Root of the project's own errors. The message names the thing, its value and what was wanted."""


class SettingsError(OffnominalError):
    """A setting is wrong."""


class TrainingError(OffnominalError):
    """No sound model came of a training."""


class NotEnoughRows(TrainingError):
    """Too few rows for what was asked of them."""


class BundleError(OffnominalError):
    """A stored version is damaged or does not fit."""


class SnapshotError(OffnominalError):
    """A snapshot is gone, damaged, or made for something else."""


class StoreError(OffnominalError):
    """The model store cannot be read or written."""


class NotSent(OffnominalError):
    """A service did not take a message."""


class TooManyInvalid(OffnominalError):
    """So many records of a partition cannot be scored that going on would divert the stream to the dead letters."""
