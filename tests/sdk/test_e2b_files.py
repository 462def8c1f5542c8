"""Files through the E2B SDK."""

import hashlib
import os

import pytest
from e2b import FileType
from e2b.exceptions import InvalidArgumentException, NotFoundException


def test_text_and_bytes(sandbox, place):
    info = sandbox.files.write(f"{place}/new/dirs/a.txt", "grüß\n")
    assert (info.name, info.path) == ("a.txt", f"{place}/new/dirs/a.txt")
    assert sandbox.files.read(info.path) == "grüß\n"
    raw = bytes(range(256)) * 17
    sandbox.files.write(f"{place}/raw", raw)
    assert sandbox.files.read(f"{place}/raw", format="bytes") == raw
    assert b"".join(sandbox.files.read(f"{place}/raw", format="stream")) == raw


def test_overwriting_leaves_nothing_of_the_longer_file(sandbox, place):
    sandbox.files.write(place, "a long text")
    sandbox.files.write(place, "short")
    assert sandbox.files.read(place) == "short"
    sandbox.files.write(place, "")
    assert sandbox.files.read(place) == ""


def test_relative_paths_start_at_home(sandbox):
    sandbox.files.write("relative.txt", "x")
    assert sandbox.files.read("/home/user/relative.txt") == "x"


def test_several_files_at_once(sandbox, place):
    written = sandbox.files.write_files([{"path": f"{place}/{n}", "data": str(n)} for n in range(3)])
    assert [info.path for info in written] == [f"{place}/{n}" for n in range(3)]
    assert [sandbox.files.read(f"{place}/{n}") for n in range(3)] == ["0", "1", "2"]


def test_a_large_file_survives_both_ways(sandbox, place):
    raw = os.urandom(8 << 20)
    sandbox.files.write(place, raw)
    digest = sandbox.commands.run(f"sha256sum {place}").stdout.split()[0]
    assert digest == hashlib.sha256(raw).hexdigest()
    assert sandbox.files.read(place, format="bytes") == raw


def test_compressed_upload(sandbox, place):
    sandbox.files.write(place, "compressible " * 1000, gzip=True)
    assert sandbox.files.read(place) == "compressible " * 1000


def test_list_and_depth(sandbox, place):
    sandbox.files.write(f"{place}/file", "12345")
    sandbox.files.write(f"{place}/dir/inner", "")
    names = {entry.name: entry for entry in sandbox.files.list(place)}
    assert set(names) == {"file", "dir"}
    assert names["file"].type == FileType.FILE and names["file"].size == 5
    assert names["dir"].type == FileType.DIR
    deep = {entry.path for entry in sandbox.files.list(place, depth=2)}
    assert deep == {f"{place}/file", f"{place}/dir", f"{place}/dir/inner"}


def test_facts_of_a_file(sandbox, place):
    # Not in /tmp: in a sticky directory the kernel keeps others, root included, from following a user's link.
    place = place.replace("/tmp", "/home/user")
    sandbox.files.write(place, "x")
    sandbox.commands.run(f"chmod 640 {place}; ln -s {place} {place}-link")
    info = sandbox.files.get_info(place)
    assert (info.mode, info.permissions, info.owner, info.group) == (0o640, "-rw-r-----", "user", "user")
    link = sandbox.files.get_info(f"{place}-link")
    assert (link.type, link.symlink_target) == (FileType.FILE, place)


def test_exists_rename_remove(sandbox, place):
    sandbox.files.write(place, "x")
    assert sandbox.files.exists(place)
    moved = sandbox.files.rename(place, f"{place}-dir/moved")
    assert moved.path == f"{place}-dir/moved"
    assert not sandbox.files.exists(place)
    sandbox.files.remove(f"{place}-dir")
    assert not sandbox.files.exists(f"{place}-dir")


def test_directories_are_made_once(sandbox, place):
    assert sandbox.files.make_dir(f"{place}/a/b")
    assert not sandbox.files.make_dir(f"{place}/a/b")
    assert sandbox.files.get_info(f"{place}/a/b").owner == "user"


def test_files_belong_to_the_user_named(sandbox, place):
    sandbox.files.write(place, "x", user="root")
    assert sandbox.files.get_info(place).owner == "root"


def test_what_is_not_there(sandbox, place):
    for call in (sandbox.files.read, sandbox.files.list, sandbox.files.get_info):
        with pytest.raises(NotFoundException):
            call(place)
    with pytest.raises(NotFoundException):
        sandbox.files.rename(place, f"{place}-2")


def test_only_regular_files_are_read(sandbox, place):
    sandbox.commands.run(f"mkfifo {place}; mkdir {place}-dir")
    for path in (place, f"{place}-dir", "/dev/zero"):
        with pytest.raises(InvalidArgumentException):
            sandbox.files.read(path)


def test_a_watched_directory_reports_a_new_file(sandbox, place):
    sandbox.files.make_dir(place)
    watch = sandbox.files.watch_dir(place)
    sandbox.files.write(f"{place}/new", "x")
    events = [(event.name, event.type.value) for event in watch.get_new_events()]
    watch.stop()
    assert events == [("new", "create"), ("new", "chmod"), ("new", "write")]
