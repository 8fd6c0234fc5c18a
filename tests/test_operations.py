"""What those who run it at night ask: a log that programs read, and dependencies that a shop may use."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from conftest import FIXTURE, catcli
from tiny import tiny_products

from catcli.adapter.folder import file_sha256

pytestmark = pytest.mark.slow

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
    assert labeled["adapter"] == file_sha256(FIXTURE / "adapter.json")
    assert (told[0]["message"], told[-1]["message"], told[-1]["exit_code"]) == ("started", "ended", 0)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (("predict", "no.csv", "-o", "out.csv", "--adapter", str(FIXTURE)), 1, "there is no file no.csv"),
        (("predict", "--nope"), 2, "no such option"),
        (("predict",), 2, "missing argument"),
    ],
)
def test_what_goes_wrong_is_in_the_log_too(tmp_path: Path, line: tuple[str, ...], code: int, said: str) -> None:
    ran = catcli(*line, "--log-format", "json", cwd=tmp_path)
    assert ran.returncode == code
    last = json.loads(ran.stderr.splitlines()[-1])
    assert (last["level"], last["exit_code"]) == ("error", code)
    assert said in last["message"]
    assert all(json.loads(one) for one in ran.stderr.splitlines())


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
