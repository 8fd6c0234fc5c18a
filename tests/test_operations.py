"""What those who run it at night ask: a log that programs read, no word to anybody outside, and dependencies that a shop may use."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import FIXTURE, catcli
from small_bases import save_base
from tiny import tiny_products

from catcli import adapter as adapters

# --- the log -------------------------------------------------------------------------------------------------------------------------


def test_the_log_is_an_object_a_line_with_run_rows_seconds_and_the_adapter(tmp_path: Path) -> None:
    tiny_products().select("title").write_csv(tmp_path / "catalog.csv")
    line = ("predict", "catalog.csv", "-o", "out.csv", "--adapter", FIXTURE, "--device", "cpu", "--log-format", "json")
    told = [json.loads(one) for one in catcli(*line, cwd=tmp_path, check=True).stderr.splitlines()]
    assert {one["level"] for one in told} <= {"info", "warning"}
    assert len({one["run"] for one in told}) == 1
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["time"]) for one in told)
    (labeled,) = (one for one in told if one["message"] == "labeled")
    assert labeled["rows"] == 120
    assert labeled["seconds"] > 0
    assert labeled["adapter"] == adapters.sha256(FIXTURE / "adapter.json")
    assert (told[0]["message"], told[-1]["message"], told[-1]["exit_code"]) == ("started", "ended", 0)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (("predict", "no.csv", "-o", "out.csv", "--adapter", str(FIXTURE)), 1, "there is no file no.csv"),
        (("predict", "--nope"), 2, "No such option"),
        (("predict",), 2, "Missing argument"),
    ],
)
def test_what_goes_wrong_is_in_the_log_too(tmp_path: Path, line: tuple[str, ...], code: int, said: str) -> None:
    ran = catcli(*line, "--log-format", "json", cwd=tmp_path)
    assert ran.returncode == code
    last = json.loads(ran.stderr.splitlines()[-1])
    assert (last["level"], last["exit_code"]) == ("error", code)
    assert said in last["message"]
    assert all(json.loads(one) for one in ran.stderr.splitlines())


# --- no telemetry --------------------------------------------------------------------------------------------------------------------

GUARDED = """
import ctypes, errno, runpy, struct, sys
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
sys.argv[:] = sys.argv[3:]
if sys.argv[0] == "catcli":
    runpy.run_module("catcli", run_name="__main__", alter_sys=True)
else:
    exec(sys.argv[1])
"""


def guarded(folder: Path, how: str, *line: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GUARDED, platform.machine(), how, *map(str, line)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("how", ["refused", "caught"])
def test_fit_predict_and_report_speak_to_nobody(tmp_path: Path, how: str) -> None:
    """With Internet sockets refused all is as ever; and with sockets that end the process at the first word, nothing speaks."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("sockets are refused by Linux's seccomp here")
    tried = guarded(tmp_path, how, "python", "import socket; socket.create_connection(('127.0.0.1', 9))")
    if "assert libc.prctl(22" in tried.stderr:
        pytest.skip("this system lets nobody set a seccomp filter")
    assert "Permission denied" in tried.stderr if how == "refused" else tried.returncode == -signal.SIGSYS, tried.stderr
    tiny_products().write_csv(tmp_path / "products.csv")
    save_base("bert", tmp_path / "base")
    fitting = ("fit", "products.csv", "-o", "made", "--base", "base", "--rank", "2", "--epochs", "1", "--device", "cpu")
    labeling = ("predict", "products.csv", "-o", "out.parquet", "--adapter", "made", "--device", "cpu")
    for line in (fitting, labeling, ("report", "made", "--html", "page.html"), ("doctor",)):
        ran = guarded(tmp_path, how, "catcli", *line)
        assert ran.returncode == 0, (line, ran.returncode, ran.stderr)


# --- licences ------------------------------------------------------------------------------------------------------------------------

PERMISSIVE = re.compile(
    r"MIT(-0)?|MIT License|ISC|0BSD|(3-Clause )?BSD( License)?|BSD-[23]-Clause|Apache([ -]2\.0)?|Apache Software License|Zlib|CC0-1\.0|"
    r"ISC License \(ISCL\)|PSF-2\.0|CNRI-Python|BSL-1\.0|Unlicense|MPL-2\.0|Mozilla Public License 2\.0 \(MPL 2\.0\)|LLVM-exception"
)
"""What a shop may use and pass on, in the names that packages give: permissive ones, and MPL, which asks for changes to its own files."""


def licences() -> dict[str, str]:
    """The licence of every package that catcli and its extras for users bring, by name."""
    found: dict[str, str] = {}
    waiting = ["catcli"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another system, or of an extra that is not installed
            continue
        told = package.metadata.json
        classes = [str(one).split(" :: ")[-1] for one in told.get("classifier", []) if str(one).startswith("License")]
        found[name] = str(told.get("license_expression") or "; ".join(classes) or told.get("license") or "none given").splitlines()[0]
        for needed in package.requires or []:
            extra = re.search(r"extra == ['\"]([^'\"]+)", needed)
            if extra is None or (name == "catcli" and extra.group(1) != "test"):
                waiting.append(re.split(r"[^A-Za-z0-9._-]", needed)[0])
    return found


def test_the_licences_of_all_dependencies_are_known_and_permissive() -> None:
    """``python tests/test_operations.py`` lists them."""
    found = licences()
    assert {"torch", "transformers", "peft", "onnxruntime-gpu", "optimum", "polars", "typer", "rich", "obstore"} <= set(found)
    odd = {
        name: licence
        for name, licence in found.items()
        for part in re.split(r" AND | OR | WITH |; ", licence)
        if not PERMISSIVE.fullmatch(part)
    }
    assert not odd


if __name__ == "__main__":
    for package, licence in sorted(licences().items()):
        print(f"{package:32} {licence}")
