"""What somebody else put where catcli keeps its own files, or where it is to write: nothing of it is followed, emptied or replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURE
from test_places import run
from tiny import tiny_products

from catcli import atomic
from catcli.adapter.store import only_adapter
from catcli.atomic import atomic_write, copy_mode_and_owner, delete_folder, temporary_path
from catcli.data.io.journal import read_arrays
from catcli.errors import OutputError, Terminated
from catcli.private_folder import MARKER, claim, delete_private_folder

Plant = Callable[[Path, Path], object]

STRANGER = 12_345


def link(place: Path, victim: Path) -> None:
    place.symlink_to(Path("..") / victim.name)


def fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


def file(place: Path, _: Path) -> None:
    place.write_text("a stranger's")


def device(place: Path, _: Path) -> None:
    try:
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # that of /dev/zero
    except PermissionError:
        pytest.skip("devices are made by root")


def someone_elses(place: Path, victim: Path) -> None:
    if os.geteuid():
        pytest.skip("files are given away by root")
    plain(place, victim)
    os.chown(place, STRANGER, STRANGER)


def plain(place: Path, _: Path) -> None:
    place.mkdir()
    (place / "journal.jsonl").write_text('{"made_from": {}, "files": {}}\n')


def copied(place: Path, _: Path) -> None:
    """With the marker of another folder, as one out of an archive."""
    other = place.with_name("other")
    claim(other)
    shutil.copytree(other, place)
    shutil.rmtree(other)


def with_a_link(place: Path, victim: Path) -> None:
    claim(place)
    (place / "journal.new").symlink_to(victim / "orders.csv")


PLANTS: dict[str, Plant] = {
    "a link": link,
    "a FIFO": fifo,
    "a file": file,
    "a device": device,
    "another owner's folder": someone_elses,
    "a folder without a marker": plain,
    "a folder with another's marker": copied,
    "a folder that holds a link": with_a_link,
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and a victim beside it."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "orders.csv").write_text("a year of orders")
    work = tmp_path / "work"
    work.mkdir()
    tiny_products().write_csv(work / "products.csv")
    monkeypatch.chdir(work)
    return work


def seen(root: Path) -> dict[str, tuple[int, int, str]]:
    """Everything below a folder: what kind it is, whose, and what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = str(path.read_bytes()) if stat.S_ISREG(status.st_mode) else str(path.readlink()) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), status.st_uid, content)
    return found


LINES: dict[str, tuple[str, list[object]]] = {
    "predict": (".labeled.csv.catcli-parts", ["predict", "products.csv", "-o", "labeled.csv", "--adapter", FIXTURE, "--device", "cpu"]),
    "fit": (".made.catcli-resume", ["fit", "products.csv", "-o", "made", "--device", "cpu", "--epochs", "1"]),
    "fit --resume": (".made.catcli-resume", ["fit", "products.csv", "-o", "made", "--device", "cpu", "--epochs", "1", "--resume"]),
    "tune": (".best.json.catcli-resume", ["tune", "products.csv", "-o", "best.json", "--trials", "1", "--folds", "2"]),
}


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("command", LINES)
def test_a_planted_folder_is_named_and_left_alone(shop: Path, command: str, plant: str) -> None:
    name, line = LINES[command]
    PLANTS[plant](shop / name, shop.parent / "victim")
    before = seen(shop.parent)
    result = run(*line)
    errors = [said for said in result.stderr.splitlines() if said.startswith("error: ")]
    assert (result.exit_code, len(errors)) == (1, 1), result.stderr
    assert name in errors[0]
    assert any(word in errors[0] for word in ("catcli did not make", "belongs to another user", "catcli does not put there"))
    after = seen(shop.parent)
    after.pop("work/best.study", None)  # the search itself, which was begun before
    assert after == before


LOCKS: dict[str, tuple[str, list[object]]] = {
    "predict": (".labeled.csv.catcli-parts/lock", LINES["predict"][1]),
    "fit": (".made.lock", LINES["fit"][1]),
    "tune": (".best.json.lock", LINES["tune"][1]),
}


@pytest.mark.parametrize("plant", ["a link", "a FIFO", "a device", "a folder without a marker"])
@pytest.mark.parametrize("command", LOCKS)
def test_a_planted_lock_is_neither_emptied_nor_waited_for(shop: Path, command: str, plant: str) -> None:
    name, line = LOCKS[command]
    if "/" in name:
        claim(shop / Path(name).parent)
    place = shop / name
    if plant == "a link":
        place.symlink_to(shop.parent / "victim" / "orders.csv")
    else:
        PLANTS[plant](place, shop.parent / "victim")
    before = seen(shop.parent)
    result = run(*line)
    assert (result.exit_code, result.stderr.count("error: ")) == (1, 1), result.stderr
    assert "lock" in result.stderr
    assert seen(shop.parent) == before


def test_reading_an_adapter_neither_restores_nor_deletes_what_lies_beside_it(shop: Path) -> None:
    shutil.copytree(FIXTURE, shop / "ad")
    shutil.copytree(shop.parent / "victim", shop / ".ad.old")
    shutil.copytree(shop.parent / "victim", shop / ".gone.old")
    before = set(seen(shop))
    for line in (("adapters", "show", "ad"), ("report", "ad"), ("predict", "products.csv", "-o", "out.csv", "--adapter", "ad")):
        assert run(*line).exit_code == 0
    assert run("adapters", "show", "gone").exit_code == 1
    assert set(seen(shop)) == before | {"out.csv"}


@pytest.mark.parametrize("plant", ["a link", "a folder without a marker", "a folder with another's marker", "a FIFO"])
def test_what_looks_like_a_killed_run_s_file_and_is_none_stays(shop: Path, plant: str) -> None:
    place = temporary_path(shop / "page.html")
    dead = shop / place.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")  # above the largest number of a process
    PLANTS[plant](dead, shop.parent / "victim")
    before = seen(shop.parent)
    assert run("report", FIXTURE, "--html", "page.html").exit_code == 0
    after = seen(shop.parent)
    assert after.pop("work/page.html")
    assert after == before


def test_what_a_killed_run_left_is_removed(shop: Path) -> None:
    left = [shop / temporary_path(shop / "page.html").name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-") for _ in range(2)]
    left[0].write_text("half a page")
    claim(left[1])
    (left[1] / "whole").mkdir()
    (left[1] / "whole" / "part.csv").write_text("half a part")
    assert run("report", FIXTURE, "--html", "page.html").exit_code == 0
    assert sorted(path.name for path in shop.iterdir()) == ["page.html", "products.csv"]


def test_a_private_folder_is_private_and_keeps_what_it_did_not_make(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    claim(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "journal.jsonl").write_text("ours")
    (folder / "notes.txt").write_text("somebody's")
    folder.chmod(0o777)
    claim(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    delete_private_folder(folder)
    assert (folder / "notes.txt").read_text() == "somebody's"
    assert not (folder / "journal.jsonl").exists()
    (folder / "notes.txt").unlink()
    delete_private_folder(folder)
    assert not folder.exists()


# --- a journal that is damaged ---------------------------------------------------------------------------------------------------------

HEAD = '{"made_from": {}, "files": {}}'
PART = "0123456789ab-000000-000000"
JOURNALS = {
    "no JSON": "{",
    "a list": "[]",
    "nothing that it is made from": '{"files": {}}',
    "a fingerprint that is a number": '{"made_from": 7, "files": {}}',
    "a part elsewhere": f'{HEAD}\n{{"part": "../../etc/passwd", "counts": {{}}}}\n{{}}',
    "rows below none": f'{HEAD}\n{{"part": "{PART}", "counts": {{"rows": -1}}}}\n{{}}',
    "counts that are none": f'{HEAD}\n{{"part": "{PART}", "counts": [1]}}\n{{}}',
    "a field of its own": f'{HEAD}\n{{"part": "{PART}", "counts": {{}}, "x": 1}}\n{{}}',
    "a part that is a number": f'{HEAD}\n{{"part": 7, "counts": {{}}}}\n{{}}',
}


@pytest.mark.parametrize("name", JOURNALS)
def test_a_damaged_journal_is_named_and_does_not_stop_a_new_run(shop: Path, name: str) -> None:
    parts = shop / ".labeled.csv.catcli-parts"
    claim(parts)
    (parts / "journal.jsonl").write_text(JOURNALS[name])
    line = LINES["predict"][1]
    refused = run(*line, "--resume")
    assert refused.exit_code == 1
    assert "--resume: " in refused.stderr
    assert "journal.jsonl is damaged" in refused.stderr
    assert run(*line).exit_code == 0
    assert sorted(path.name for path in shop.iterdir()) == ["labeled.csv", "products.csv"]


def test_known_labels_are_not_unpacked_from_a_bomb(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "known.npz", hashes=np.zeros(2**27, np.uint64))
    with pytest.raises(ValueError, match="larger than what a run keeps, or compressed"):
        read_arrays(tmp_path / "known.npz")


# --- devices, FIFOs and links as outputs -------------------------------------------------------------------------------------------------


def review(target: Path) -> list[object]:
    return ["predict", "products.csv", "-o", "out.csv", "--review", target, "--min-confidence", 1, "--adapter", FIXTURE, "--device", "cpu"]


def page(target: Path) -> list[object]:
    return ["report", FIXTURE, "--html", target]


def changed(target: Path) -> list[object]:
    shutil.copytree(FIXTURE, "other", dirs_exist_ok=True)
    return ["diff", FIXTURE, "other", "products.csv", "-o", target, "--device", "cpu"]


WRITERS = {"--html": page, "compare -o": changed, "--review": review}


def full_device(place: Path) -> Path:
    try:
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # that of /dev/full
    except PermissionError:
        pytest.skip("devices are made by root")
    return place


def test_a_device_is_written_through_and_stays_a_device(shop: Path) -> None:
    place = full_device(shop / "full.html")
    result = run(*page(place))
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert stat.S_ISCHR(place.lstat().st_mode)


def test_a_fifo_gets_the_bytes_and_stays_a_fifo(shop: Path) -> None:
    place = shop / "pipe.html"
    os.mkfifo(place)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(place.read_bytes()), daemon=True)
    reader.start()
    assert run(*page(place)).exit_code == 0
    reader.join()
    assert got[0].startswith(b"<!doctype html>")
    assert stat.S_ISFIFO(place.lstat().st_mode)


@pytest.mark.parametrize("writer", ["compare -o", "--review"])
def test_rows_that_are_put_in_order_at_the_end_go_to_no_device(shop: Path, writer: str) -> None:
    place = full_device(shop / "full.csv")
    result = run(*WRITERS[writer](place))
    assert (result.exit_code, result.stderr.count("error: ")) == (2, 1), result.stderr
    assert stat.S_ISCHR(place.lstat().st_mode)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_is_followed_and_mode_and_owner_stay(shop: Path, writer: str) -> None:
    real, place = shop / "real.csv", shop / "link.csv"
    real.write_text("before")
    real.chmod(0o640)
    if not os.geteuid():
        os.chown(real, STRANGER, STRANGER)
    place.symlink_to(real)
    assert run(*WRITERS[writer](place)).exit_code == 0
    assert place.is_symlink()
    assert real.read_text() != "before"
    status = real.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_uid == (os.geteuid() or STRANGER)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_socket_is_refused_and_stays_a_socket(shop: Path, writer: str) -> None:
    place = shop / "s.csv"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.name)
        result = run(*WRITERS[writer](place))
        assert result.exit_code in (1, 2), result.stderr
        assert result.stderr.count("error: ") == 1
        assert stat.S_ISSOCK(place.lstat().st_mode)


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder, which no file replaces; name another place"):
        with atomic_write(tmp_path):
            pytest.fail("it was to be refused before")


def test_a_store_with_an_adapter_of_no_time_zone_can_be_listed(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = shop / "store"
    for name in ("good", "odd"):
        shutil.copytree(FIXTURE, store / name)
    told = json.loads((store / "odd" / "adapter.json").read_text())
    told["created"] = "2026-01-01T00:00:00"
    (store / "odd" / "adapter.json").write_text(json.dumps(told))
    monkeypatch.setenv("CATCLI_ADAPTERS", str(store))
    assert only_adapter().name == "good"
    listed = run("adapters", "list")
    assert listed.exit_code == 0
    assert "odd/adapter.json is damaged (created: Input should have timezone info)" in listed.stderr


# --- a neighbour in a shared folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(shop: Path) -> Path:
    if os.geteuid():
        pytest.skip("files are given away by root")
    shop.chmod(0o1777)
    return shop


def test_a_neighbour_s_link_at_the_output_is_not_followed(shared: Path) -> None:
    for target, line in (("page.html", page(shared / "page.html")), ("labeled.csv", LINES["predict"][1])):
        (shared / target).symlink_to(shared.parent / "victim" / "orders.csv")
        os.lchown(shared / target, STRANGER, STRANGER)
        refused = run(*line)
        assert (refused.exit_code, refused.stderr.count("error: ")) == (1, 1)
        assert f"that uid {STRANGER} put there; remove it, or name another place." in refused.stderr
    assert (shared.parent / "victim" / "orders.csv").read_text() == "a year of orders"


def test_nobody_but_its_owner_can_reach_a_file_while_it_is_written(shared: Path) -> None:
    with atomic_write(shared / "page.html") as place:
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        place.write_text("a page")
        victim = shared.parent / "victim" / "orders.csv"
        victim.chmod(0o600)
        place.unlink()
        place.symlink_to(victim)  # had somebody come in all the same
        with pytest.raises(OSError, match="symbolic links"):
            copy_mode_and_owner(place, shared / "products.csv")
        place.unlink()
        place.write_text("a page")
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert (shared / "page.html").read_text() == "a page"


def test_what_another_user_s_killed_run_left_stops_nobody(shared: Path) -> None:
    name = temporary_path(shared / "page.html").name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    claim(shared / name)
    os.chown(shared / name, STRANGER, STRANGER)
    (shared / name).chmod(0)
    assert run(*page(shared / "page.html")).exit_code == 0
    assert (shared / name).is_dir()


def test_an_empty_folder_in_the_place_of_a_private_one_becomes_private(shop: Path) -> None:
    (shop / "private").mkdir(mode=0o777)
    (shop / "private").chmod(0o777)
    claim(shop / "private")
    assert stat.S_IMODE((shop / "private").stat().st_mode) == 0o700


@pytest.mark.parametrize("marker", [None, b"", b"catcli ma"])
def test_a_folder_whose_maker_was_stopped_before_it_was_marked_is_deleted_and_can_be_claimed(tmp_path: Path, marker: bytes | None) -> None:
    for use in (delete_private_folder, claim):
        folder = tmp_path / use.__name__
        folder.mkdir()
        if marker is not None:
            (folder / MARKER).write_bytes(marker)
        use(folder)
    assert not (tmp_path / "discard").exists()
    (tmp_path / "claim" / "whole").touch()
    claim(tmp_path / "claim")  # with something in it, the marker is what makes it ours


@pytest.mark.parametrize("signal_error", [KeyboardInterrupt(), Terminated(signal.SIGTERM)])
def test_a_signal_within_a_deletion_ends_the_run_once_all_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_error: BaseException
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    errors = [signal_error]

    def interrupted(folder: Path) -> None:
        if errors:
            raise errors.pop()
        delete_private_folder(folder)

    monkeypatch.setattr(atomic, "delete_private_folder", interrupted)
    with pytest.raises(type(signal_error)):
        delete_folder(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


def test_a_marker_that_is_a_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "private" / MARKER / "theirs").mkdir(parents=True)
    for use in (claim, delete_private_folder):
        with pytest.raises(OutputError, match="a folder that catcli did not make"):
            use(tmp_path / "private")


def test_two_runs_that_sweep_the_same_folder_do_not_stop_one_another(tmp_path: Path) -> None:
    for _ in range(200):
        folder = tmp_path / "private"
        claim(folder)
        for number in range(30):
            (folder / f"0123456789ab-000000-{number:06}").write_text("part")
        failed: list[BaseException] = []

        def sweep(folder: Path = folder, failed: list[BaseException] = failed) -> None:
            try:
                delete_private_folder(folder)
            except BaseException as error:  # noqa: BLE001  # it is looked at in the other thread
                failed.append(error)

        threads = [threading.Thread(target=sweep) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert not folder.exists()


def test_where_folders_cannot_be_opened_they_are_looked_at_by_name(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no descriptors of folders, no owners and no modes of this kind."""
    for module in ("atomic", "private_folder"):
        monkeypatch.setattr(f"catcli.{module}.HAS_DESCRIPTORS", False)
    for name in ("O_DIRECTORY", "O_NOFOLLOW", "geteuid", "fchmod", "fchown"):
        monkeypatch.delattr(os, name)
    line = LINES["predict"][1]
    assert run(*line).exit_code == 0
    assert run("adapters", "export", FIXTURE, "-o", "copy").exit_code == 0
    assert sorted(path.name for path in shop.iterdir()) == ["copy", "labeled.csv", "products.csv"]
    (shop / ".labeled.csv.catcli-parts").symlink_to(shop.parent / "victim")
    assert "catcli did not make" in run(*line).stderr
    (shop / ".labeled.csv.catcli-parts").unlink()
    shutil.copytree(shop.parent / "victim", shop / ".labeled.csv.catcli-parts")
    assert "catcli did not make" in run(*line).stderr
