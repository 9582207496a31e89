"""Authorities and the certificates that they sign, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates; its own is `<name>.pem` in the folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        _openssl(
            folder, "req", "-x509", *_KEY, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj",
            f"/CN={name}",
        )  # fmt: skip

    def sign(self, folder: Path, name: str, *, days: int = 2) -> None:
        """Makes `<name>.key` and `<name>.pem`, which is for the address 127.0.0.1; with 0 days it has expired."""
        _openssl(folder, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key",
            "-CAcreateserial", "-days", str(days), "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
