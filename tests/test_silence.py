"""Nothing is asked of the network and nothing is written but what was named: every command, each in a process that lives on for a while.

ONNX Runtime 1.31 by itself writes a device id and a queue of events below HOME as soon as it is imported, and asks the network after a
minute; others may come to do so.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from conftest import FIXTURE
from small_bases import save_base
from tiny import tiny_products

pytestmark = pytest.mark.slow

SECONDS = 75
"""How long each process lives after its command has ended: what a library does by a timer, it does by then."""

GUARDED = """
import ctypes, errno, os, runpy, struct, sys, time
# A seccomp filter (seccomp(2)): Internet sockets are refused, or what would speak through one ends the process.
arch, socket, connect, sendto = {"x86_64": (0xC000003E, 41, 42, 44), "aarch64": (0xC00000B7, 198, 203, 206)}[sys.argv[1]]
load, equal, end = 0x20, 0x15, 0x06
allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EACCES
steps = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, allow), (load, 0, 0, 0)]
if sys.argv[2] == "refused":
    steps += [(equal, 0, 4, socket), (load, 0, 0, 16), (equal, 1, 0, 2), (equal, 0, 1, 10), (end, 0, 0, refuse)]
else:
    for number, length in ((connect, 32), (sendto, 56)):  # where the address is 16 or 28 bytes long it is one of the Internet's
        steps += [(load, 0, 0, 0), (equal, 0, 4, number), (load, 0, 0, length), (equal, 1, 0, 16), (equal, 0, 1, 28), (end, 0, 0, kill)]
steps += [(end, 0, 0, allow)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
ended, seconds = int(sys.argv[3]), float(sys.argv[4])
sys.argv[:] = sys.argv[5:]
if __name__ == "__main__":  # and not where a child of it imports this again
    try:
        if sys.argv[0] == "catcli":
            runpy.run_module("catcli", run_name="__main__", alter_sys=True)
        else:
            exec(sys.argv[1])
    finally:
        os.write(ended, b".")
        time.sleep(seconds)
"""


@dataclass(frozen=True)
class Guarded:
    """A process whose words to the Internet are refused (``how`` "refused") or end it ("caught"), and which lives on after its end."""

    line: Sequence[str]
    process: subprocess.Popen[str]
    ended: int

    @classmethod
    def start(cls, folder: Path, how: str, line: Sequence[str], *, seconds: float = 0, home: Path | None = None) -> Self:
        """Begin; ``home`` is its home, and where its temporary files go."""
        reading, writing = os.pipe()
        script = folder.parent / "guarded.py"  # in a file, so that a process that it spawns can find it
        script.write_text(GUARDED)
        places = {} if home is None else {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), "XDG_CACHE_HOME": str(home / "cache")}
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "ORT_", "RAY_", "DO_NOT"))}
        process = subprocess.Popen(
            [sys.executable, script, platform.machine(), how, str(writing), str(seconds), *line],
            cwd=folder,
            env={**settings, "NO_COLOR": "1", **places},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[writing],
        )
        os.close(writing)
        return cls(line, process, reading)

    def wait(self) -> None:
        """Until its command has ended, or it has died."""
        os.read(self.ended, 1)
        os.close(self.ended)

    def finish(self) -> tuple[int, str]:
        """Its exit code and what it said on standard error."""
        said = self.process.communicate(timeout=600)[1]
        return self.process.returncode, said


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("sockets are refused by Linux's seccomp here")
    work = tmp_path / "work"
    work.mkdir()
    for how in ("refused", "caught"):
        tried = Guarded.start(work, how, ["python", "import socket; socket.create_connection(('127.0.0.1', 9))"])
        tried.wait()
        code, said = tried.finish()
        if "assert libc.prctl(22" in said:
            pytest.skip("this system lets nobody set a seccomp filter")
        assert "Permission denied" in said if how == "refused" else code == -signal.SIGSYS, said
    tiny_products().write_csv(work / "products.csv")
    (work / "new.txt").write_text("Mugs and Cups\nDrills\nShampoo\nCoffee\n")
    save_base("bert", work / "base")
    shutil.copytree(FIXTURE, work / "mailed")
    return work


FIT = ["--base", "base", "--rank", "2", "--epochs", "1", "--device", "cpu"]
LINES: dict[str, tuple[list[str], set[str]]] = {
    "fit": (["fit", "products.csv", "-o", "made", *FIT], {"made"}),
    "predict": (["predict", "products.csv", "-o", "out.parquet", "--adapter", "made", "--device", "cpu"], {"out.parquet"}),
    "predict by a stranger's adapter": (["predict", "products.csv", "-o", "o.csv", "--adapter", "mailed", "--device", "cpu"], {"o.csv"}),
    "report": (["report", "made", "--html", "page.html"], {"page.html"}),
    "report --on": (["report", "made", "--on", "products.csv", "--device", "cpu"], set()),
    "compare": (
        ["compare", "products.csv", "-o", "grid", "--base", "base", "--method", "head", "--epochs", "1", "--device", "cpu"],
        {"grid"},
    ),
    "diff": (["diff", "made", "mailed", "products.csv", "--device", "cpu"], set()),
    "migrate": (["migrate", "products.csv", "--taxonomy", "new.txt", "-o", "mapping.csv"], {"mapping.csv"}),
    "tune": (
        ["tune", "products.csv", "-o", "best.json", "--base", "base", "--trials", "1", "--folds", "2", "--device", "cpu"],
        {"best.json", "best.study"},
    ),
    "adapters list": (["adapters", "list"], set()),
    "adapters show": (["adapters", "show", "made"], set()),
    "adapters verify": (["adapters", "verify", "mailed"], set()),
    "adapters export": (["adapters", "export", "made", "-o", "handed-on", "--without-rows"], {"handed-on"}),
    "recipes": (["recipes"], set()),
    "bench": (["bench", "--adapter", "made", "--rows", "16", "--repeats", "1", "--device", "cpu", "--against", "transformers"], set()),
    "doctor": (["doctor"], set()),
    "demo": (["demo", "demo"], {"demo"}),
}


def test_no_command_speaks_to_anybody_or_writes_what_was_not_named(shop: Path, tmp_path: Path) -> None:
    """At the first word to the Internet a process ends, and the test with it."""
    homes, there = tmp_path / "homes", {path.name for path in shop.iterdir()}
    with ExitStack() as opened:
        running = []
        for name, (line, writes) in LINES.items():
            home = homes / name.replace(" ", "-")
            for folder in ("home", "tmp", "cache"):
                (home / folder).mkdir(parents=True)
            process = Guarded.start(shop, "caught", ["catcli", *line], seconds=SECONDS, home=home)
            opened.callback(process.process.kill)
            process.wait()  # one after the other; they live on side by side
            running.append(process)
            there |= writes
        for process in running:
            code, said = process.finish()
            assert code == 0, (process.line, code, said)
    assert {path.name for path in shop.iterdir()} == there
    assert sorted(str(path.relative_to(homes)) for path in homes.rglob("*") if not path.is_dir()) == []
    assert sorted(str(path.relative_to(homes)) for path in homes.glob("*/*/*")) == []


def test_a_fit_and_its_use_need_no_network(shop: Path) -> None:
    for line in (LINES["fit"][0], LINES["predict"][0], LINES["report"][0], LINES["doctor"][0]):
        process = Guarded.start(shop, "refused", ["catcli", *line])
        process.wait()
        code, said = process.finish()
        assert code == 0, (line, code, said)
