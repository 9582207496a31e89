from __future__ import annotations

import subprocess
import sys

import pytest

LOOP = """
import ctypes, threading, time
from detector.watchdog import Watchdog

def stuck_in_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def stuck_in_c_with_the_gil():
    ctypes.PyDLL(None).pause()

threading.Thread(target=threading.Event().wait, name="bystander", daemon=True).start()
watchdog = Watchdog({timeout})
time.sleep(0.5)
with watchdog:
    for _ in range(5):
        time.sleep(0.1)
        watchdog.turn()
    print("turned", flush=True)
    {then}
time.sleep(0.5)
print("over", flush=True)
"""


def run(then: str, timeout: float = 0.4) -> subprocess.CompletedProcess[str]:
    code = LOOP.format(timeout=timeout, then=then)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("hang", ["stuck_in_a_lock", "stuck_in_c_with_the_gil"])
def test_a_loop_that_hangs_ends_the_process_with_the_traces_of_all_threads(hang: str) -> None:
    ended = run(f"{hang}()")
    assert ended.returncode == 1
    assert ended.stdout == "turned\n", "the turns before, longer in all than the limit, were no hang"
    assert f"in {hang}" in ended.stderr
    assert ended.stderr.count("Thread 0x") == 2


def test_before_and_after_the_process_may_take_its_time() -> None:
    ended = run("pass")
    assert (ended.returncode, ended.stdout) == (0, "turned\nover\n")


def test_an_error_in_the_loop_disarms_it_as_well() -> None:
    ended = run("raise KeyError('telling')")
    assert ended.returncode == 1
    assert "KeyError" in ended.stderr
    assert "Thread 0x" not in ended.stderr
