"""Files of records are read or refused, whatever is in them."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest

from consumers.batch import Schema
from detector import files
from detector.errors import SettingsError
from detector.files import read_files

SCHEMA = Schema(numbers=("cpu",), entity="machine")
ROWS = [{"machine": f"m{row % 3}", "cpu": row / 7} for row in range(100)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    chance, path = random.Random(1), tmp_path / f"x{suffix}"
    getattr(pl.DataFrame(ROWS), f"write_{suffix[1:]}")(path)
    whole, read = path.read_bytes(), 0
    for _ in range(100):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 3, 10))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content[: chance.randrange(1, len(content)) if chance.random() < 0.2 else None])
        with suppress(SettingsError):
            read_files([str(path)], SCHEMA)
            read += 1
    assert read


def test_a_panic_of_the_reader_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(_path: Path) -> pl.DataFrame:
        raise pl.exceptions.PanicException("assertion failed")

    path = tmp_path / "x.parquet"
    path.touch()
    monkeypatch.setitem(files.FRAMES, ".parquet", panic)
    with pytest.raises(SettingsError, match="assertion failed"):
        read_files([str(path)], SCHEMA)
