"""Who follows pages of the documentation word for word, in a folder and on ports of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

from detector.loading import parse
from tests.docs.pages import ROOT, Block, alternatives, blocks, command_lines, ours, words
from tests.test_cli import free_port

DEADLINE_S = 180
"""For one command; far more than any takes, on a machine that has other work."""
HEAVY = ["detector.commands.check", "detector.commands.train", "detector.commands.inspect", __name__]
MINIMAL = {
    "name": "machines",
    "kafka": {"bootstrap": "localhost:9092"},
    "stream": {"topics": ["machine-metrics"], "entity": "machine", "timestamp": "ts"},
    "features": ["cpu", "memory"],
    "alerts": {"topic": "machine-alerts"},
}
"""What a block that shows a part of the settings is a part of."""
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
_NUMBER = re.compile(r"\b[0-9a-f]{8,}\b|\d(?:[\d.,:TZ+-]*[\dZ])?(?:e-\d+)?")


class Reader:
    """Follows pages one after the other; what they start in other terminals goes on until the end.

    Our commands run in processes forked from one that has imported torch and the like already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {"9092": str(free_port()), "8686": str(free_port())}
        self._environment = {
            **os.environ,
            "OFFNOMINAL__WEB__PORT": self._ports["8686"],
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "160",
        }
        self._terminals: list[subprocess.Popen[str]] = []
        self._forking = multiprocessing.get_context("forkserver")
        self._forking.set_forkserver_preload(HEAVY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._terminals):
            process.terminate()
            process.communicate(timeout=DEADLINE_S)

    def follow(self, page: Path) -> None:
        """Does what the page says. Raises `AssertionError` where something fails, or says something else."""
        for block, after in pairwise([*blocks(page), None]):
            if block is not None and block.language != "text" and not block.title.startswith("Needs "):
                expected = self._meant(after.text) if after is not None and after.language == "text" else ""
                said = self._done(block, self._meant(block.text), expected)
                assert (line := missing(expected, said)) is None, f"{block}: no '{line}' in:\n{said}"

    def _done(self, block: Block, text: str, expected: str) -> str:
        """What was printed."""
        match block.language, block.title:
            case "yaml", _:
                for settings in alternatives(block.text):
                    parse(settings if "name" in settings else {**MINIMAL, **settings}, origin=str(block))
            case "python", title if title.endswith(".py"):
                (self._folder / title).write_text(text, encoding="utf-8")
            case "python", "Until Ctrl-C":
                return self._until_said([sys.executable, "-uc", text], expected)
            case "sh", "Until Ctrl-C":
                return self._until_said(["bash", "-c", "exec " + text], expected)
            case "sh", "In another terminal":
                self._started(["bash", "-c", "exec " + text])
            case "sh", "":
                return "".join(self._said(line, block) for line in command_lines(text))
            case "python" | "sh" | "console", title:
                raise AssertionError(f"{block}: nobody knows how to follow {block.language} with the title '{title}'")
        return ""

    def _meant(self, text: str) -> str:
        """With what some words in the pages stand for: ports, versions of the detector, the id of an incident."""
        versions = sorted(it.name for it in self._folder.glob("store/*/*") if _VERSION.fullmatch(it.name))
        for stand_in, version in zip(["20260301T030000Z-4be1", "20260302T030000Z-91c0"], versions, strict=False):
            text = text.replace(stand_in, version)
        if "9c1a2b" in text:
            told = self._ours(["alerts", "-c", "offnominal.yaml", "--json", "--no-follow"], {})[1]
            text = text.replace("9c1a2b", json.loads(told.splitlines()[0])["incident"])
        for port, own in self._ports.items():
            text = re.sub(rf"\b{port}\b", own, text)
        return text

    def _said(self, line: str, block: Block) -> str:
        """What a command prints that must end well."""
        parts, calls = words(line), [*ours(line)]
        if calls and not set(parts) & {"|", "&&", ">"}:
            assignments = parts[: parts.index("offnominal")]
            code, said = self._ours(calls[0], dict(it.split("=", 1) for it in assignments))
        else:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line],
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )
            code, said = done.returncode, done.stdout
        assert code == 0, f"{block}: {line}: exit code {code}\n{said}"
        return said

    def _ours(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int | None, str]:
        output = self._folder / "output.log"
        child = self._forking.Process(
            target=offnominal, args=(arguments, self._folder, {**self._environment, **environment}, output)
        )
        child.start()
        child.join(DEADLINE_S)
        if child.exitcode is None:
            child.kill()
            child.join()
        return child.exitcode, output.read_text(encoding="utf-8")

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with (self._folder / f"terminal-{len(self._terminals)}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._terminals.append(process)
        return process

    def _until_said(self, command: Sequence[str], expected: str) -> str:
        """What something prints that goes on, up to the last of what it should print, or to its first line."""
        process, said = self._started(command), ""
        deadline = threading.Timer(DEADLINE_S, process.kill)
        deadline.start()
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if missing(expected, said) is None:
                break
        deadline.cancel()
        process.terminate()
        return said


def missing(expected: str, said: str) -> str | None:
    """The first line that should have been said and was not. One stands for every line that begins, ends or goes on
    otherwise, and has other numbers; `…` for anything."""
    lines = iter(_comparable(said))
    return next((line for line in _comparable(expected) if not any(_fits(line, it) for it in lines)), None)


def _comparable(text: str) -> list[str]:
    return [" ".join(_NUMBER.sub("0", line).split()) for line in text.splitlines() if line.strip()]


def _fits(wanted: str, line: str) -> bool:
    return re.search(".*".join(map(re.escape, wanted.split("…"))), line) is not None


def offnominal(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
    """Our command in a process of its own, as the shell would run it."""
    from detector.cli import main

    with output.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["offnominal", *arguments]
    main()
