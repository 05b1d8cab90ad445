"""Where decoded pictures live: through real files, killed and doubled processes, and refusing disks."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import photographs
from PIL import Image
from work import done

from sslcut import recipe
from sslcut.data import cache, earlier, residence, workers
from sslcut.data.images import ArrayImages, Subset
from sslcut.data.opening import Joined, open_dataset
from sslcut.errors import InputError
from sslcut.events import Note, Progress, Warn

KILLED = """
import sys, time
from pathlib import Path
from sslcut.data import cache, residence, workers
cache.FLUSH_SECONDS, workers.CHUNK_ROWS, residence.BLINK, plain = 0.0, 2, -1.0, residence.decode
def slow(path, size):
    sys.stdout.write(path.name + "\\n")  # in one piece, since another thread does so too
    sys.stdout.flush()
    time.sleep(0.05)
    return plain(path, size)
residence.decode = slow
for _ in residence.open_files(sorted(Path(sys.argv[1]).glob("*.png")), 8, skip_bad=False, cache=True):
    pass
"""

SLOW_COPY = """
import sys, time
from pathlib import Path
from sslcut.data import cache, residence, workers
cache.FLUSH_SECONDS, workers.CHUNK_ROWS, residence.BLINK, plain = 0.0, 2, -1.0, cache.Entry.write
def slow(entry, chunk):
    plain(entry, chunk)
    print("written", flush=True)
    time.sleep(0.5)
cache.Entry.write = slow
for _ in residence.open_files(sorted(Path(sys.argv[1]).glob("*.png")), 8, skip_bad=False, cache=True):
    pass
"""


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The cache's folder, which keeps even what is decoded in a blink."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(residence, "BLINK", -1.0)
    return tmp_path / "cache/sslcut/decoded"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve different pictures in one folder."""
    return photographs(tmp_path / "images", classes=1, each=12)


def opened(folder, *, skip_bad=False, cache=True, size=8):
    return done(residence.open_files(sorted(folder.glob("*.png")), size, skip_bad=skip_bad, cache=cache))


def told(folder, kind):
    """The events of one kind while a folder is opened."""
    work = residence.open_files(sorted(folder.glob("*.png")), 8, skip_bad=False, cache=True)
    return [event.text for event in work if isinstance(event, kind)]


def pixels(files):
    return files.images.read(files.rows)


def counted(monkeypatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []
    plain = residence.decode

    def decode(path, size):
        names.append(path.name)
        return plain(path, size)

    monkeypatch.setattr(residence, "decode", decode)
    return names


def as_decoded(folder, **how):
    """Whether the folder's pixels are those of its files."""
    return torch.equal(pixels(opened(folder, **how)), pixels(opened(folder, **how, cache=False)))


def change(path):
    Image.new("RGB", (9, 9), (1, 2, 3)).save(path)


def no_room(monkeypatch):
    monkeypatch.setattr(workers, "check_memory", refused)


def refused(*_):
    raise residence.MachineError("12 images take 9 GB")


def test_it_is_said_where_new_pictures_are_kept_and_never_again(kept, folder):
    [note] = told(folder, Note)
    assert str(kept) in note and told(folder, Note) == []


def test_what_is_decoded_once_is_read_from_then_on(kept, folder, monkeypatch):
    first = opened(folder)
    names = counted(monkeypatch)
    second = opened(folder)
    assert names == [] and torch.equal(pixels(first), pixels(second))
    assert len(opened(folder, size=4).rows) == 12 and len(names) == 12 and len(list(kept.iterdir())) == 2


def test_the_three_residences_give_the_same_pixels_and_hashes(kept, folder, monkeypatch):
    mapped, memory = opened(folder), opened(folder, cache=False)
    no_room(monkeypatch)
    nowhere = opened(folder, cache=False)
    assert [type(each.images) for each in (mapped, memory, nowhere)] == [
        cache.Mapped, workers.Held, residence.AtEachReading,
    ]  # fmt: skip
    assert [each.images.resident for each in (mapped, memory, nowhere)] == [True, True, False]
    some = torch.tensor([7, 0, 7])
    plain = ArrayImages(pixels(memory), {})
    for files in (mapped, memory, nowhere):
        assert torch.equal(pixels(files), pixels(memory))
        assert torch.equal(files.images.read(some), plain.read(some))
        assert torch.equal(files.images.hashes(some), plain.hashes(some))


def test_a_map_larger_than_memory_is_read_page_by_page_with_the_same_pixels(kept, folder, monkeypatch):
    whole = pixels(opened(folder))
    monkeypatch.setattr(cache, "available_memory", lambda: 1000)
    files = opened(folder)
    assert not files.images.resident and torch.equal(pixels(files), whole)
    assert not Subset(files.images, torch.arange(3)).resident
    assert not Joined(ArrayImages(whole, {}), files.images).resident


def test_joined_splits_give_the_hashes_of_their_pixels():
    first, second = (ArrayImages(torch.full((2, 3, 2, 2), value, dtype=torch.uint8), {}) for value in (3, 4))
    both = ArrayImages(torch.cat([first.pixels, second.pixels]), {})
    rows = torch.tensor([3, 0, 1])
    assert torch.equal(Joined(first, second).hashes(rows), both.hashes(rows))


def test_a_changed_file_is_decoded_anew(kept, folder):
    before = pixels(opened(folder))
    length = (folder / "3.png").stat().st_size
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "3.png")
    after = pixels(opened(folder))
    assert (folder / "3.png").stat().st_size != length
    changed = (before != after).flatten(1).any(dim=1)
    assert changed.sum() == 1


def test_of_many_files_the_one_that_changed_is_decoded_and_the_rest_are_copied(kept, folder, monkeypatch):
    opened(folder)
    change(folder / "3.png")
    names = counted(monkeypatch)
    [note] = told(folder, Note)
    assert names == ["3.png"] and "11 of 12 are taken from earlier entries" in note
    assert as_decoded(folder) and told(folder, Note) == []


def test_files_that_come_go_and_change_their_places_cost_what_is_new(kept, folder, monkeypatch):
    opened(folder)
    (folder / "3.png").unlink()
    change(folder / "10a.png")
    paths = [*sorted(folder.glob("*.png"))[::-1], folder / "0.png"]
    names = counted(monkeypatch)
    files = done(residence.open_files(paths, 8, skip_bad=False, cache=True))
    assert names == ["10a.png"]
    assert torch.equal(pixels(files), pixels(done(residence.open_files(paths, 8, skip_bad=False, cache=False))))
    hashes = ArrayImages(pixels(files), {}).hashes(torch.arange(13))
    assert torch.equal(files.images.hashes(files.rows), hashes)


def test_a_list_is_put_together_from_several_earlier_entries(kept, folder, monkeypatch):
    paths = sorted(folder.glob("*.png"))
    for part in (paths[:8], paths[6:11]):
        done(residence.open_files(part, 8, skip_bad=False, cache=True))
    names = counted(monkeypatch)
    opened(folder)
    assert names == [paths[11].name] and as_decoded(folder)


def test_other_sizes_and_decoders_and_entries_without_origins_give_nothing(kept, folder, monkeypatch):
    opened(folder)
    (next(kept.iterdir()) / "origins").unlink()
    opened(folder, size=4)
    with monkeypatch.context() as newer:
        newer.setattr(cache, "VERSION", cache.VERSION + 1)
        opened(folder)
    change(folder / "3.png")
    names = counted(monkeypatch)
    opened(folder)
    assert len(names) == 12 and as_decoded(folder)
    assert as_decoded(folder, size=4)


def test_an_entry_that_is_half_done_gives_its_half(kept, folder, monkeypatch):
    opened(folder)
    [entry] = kept.iterdir()
    (entry / "journal").write_text('{"done": [[0, 6]], "faults": {}}\n{"done": [[6, 12')
    with (entry / "pixels").open("r+b") as file:
        file.truncate(6 * 192)  # what is not done may be anything
        file.truncate(12 * 192)
    change(folder / "0.png")
    names = counted(monkeypatch)
    opened(folder)
    assert len(names) == 7 and as_decoded(folder)


def emptied(entry):
    """As one that goes on from a cut file leaves it."""
    (entry / "journal").unlink()
    for length in (0, 12 * 192):
        os.truncate(entry / "pixels", length)


@pytest.mark.parametrize("damage", [shutil.rmtree, emptied, lambda entry: os.truncate(entry / "pixels", 5 * 192)])
def test_what_vanishes_while_it_is_copied_is_decoded(kept, folder, monkeypatch, damage):
    opened(folder)
    [entry] = kept.iterdir()
    change(folder / "9.png")
    plain = cache.Entry.write

    def write(self, chunk):
        plain(self, chunk)
        if (entry / "journal").exists():
            damage(entry)

    monkeypatch.setattr(workers, "CHUNK_ROWS", 2)
    monkeypatch.setattr(cache.Entry, "write", write)
    names = counted(monkeypatch)
    opened(folder)
    assert 8 <= len(names) <= 10 and as_decoded(folder)


def test_a_killed_copy_is_gone_on_with(kept, folder, monkeypatch):
    opened(folder)
    change(folder / "9.png")
    with subprocess.Popen([sys.executable, "-c", SLOW_COPY, folder], stdout=subprocess.PIPE, text=True) as child:
        for _ in range(2):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    monkeypatch.setattr(workers, "CHUNK_ROWS", 2)
    monkeypatch.setattr(earlier, "TELL_SECONDS", 0.0)
    names = counted(monkeypatch)
    copying = [text for text in told(folder, Progress) if "copying" in text]
    assert names == ["9.png"] and 0 < len(copying) <= 4 and as_decoded(folder)


def test_a_file_that_changes_before_it_is_copied_is_not_kept(kept, folder, monkeypatch):
    opened(folder)
    change(folder / "9.png")
    plain = earlier._others

    def others(entry):
        os.utime(folder / "5.png", ns=(1, 1))
        return plain(entry)

    monkeypatch.setattr(earlier, "_others", others)
    names = counted(monkeypatch)
    opened(folder)
    assert sorted(names) == ["5.png", "9.png"]


def test_what_was_worth_keeping_once_is_kept_though_it_is_copied_in_a_blink(kept, folder, monkeypatch):
    opened(folder)
    change(folder / "3.png")
    monkeypatch.setattr(residence, "BLINK", 60.0)
    assert type(opened(folder).images) is cache.Mapped and len(list(kept.iterdir())) == 2


def test_a_faulty_picture_of_an_earlier_entry_is_decoded_anew(kept, folder, monkeypatch):
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:200])
    opened(folder, skip_bad=True)
    (folder / "3.png").unlink()
    names = counted(monkeypatch)
    assert len(opened(folder, skip_bad=True).kept) == 10 and names == ["7.png"]
    with pytest.raises(InputError, match=r"7\.png"):
        opened(folder)


def test_what_is_known_of_files_that_have_no_room_is_taken_too(kept, folder, monkeypatch):
    no_room(monkeypatch)
    plain = cache.Entry._need_space
    monkeypatch.setattr(cache.Entry, "_need_space", lambda self: refused() if self.with_pixels else plain(self))
    opened(folder)
    change(folder / "3.png")
    names = counted(monkeypatch)
    files = opened(folder)
    assert names == ["3.png"] and torch.equal(
        files.images.hashes(files.rows), ArrayImages(pixels(files), {}).hashes(files.rows)
    )


@given(
    ours=st.lists(st.integers(0, 9), unique=True),
    theirs=st.dictionaries(st.integers(0, 9), st.integers(0, 1)),
)
def test_rows_that_are_equal_in_both_words_are_found_in_any_order(ours, theirs):
    rows = list(theirs.items())
    first, second = (np.array(all_, np.uint64).reshape(-1, 2) for all_ in ([(word, 0) for word in ours], rows))
    found = zip(*(places.tolist() for places in earlier.same(first, second)), strict=True)
    assert list(found) == [(n, rows.index((word, 0))) for n, word in enumerate(ours) if theirs.get(word) == 0]


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(kept, folder, monkeypatch):
    plain = residence.decode

    def touching(path, size):
        found = plain(path, size)
        if path.name == "5.png":
            os.utime(path, ns=(1, 1))
        return found

    stamps = (folder / "5.png").stat()
    monkeypatch.setattr(residence, "decode", touching)
    opened(folder)
    monkeypatch.setattr(residence, "decode", plain)
    os.utime(folder / "5.png", ns=(stamps.st_atime_ns, stamps.st_mtime_ns))  # the first name's files again
    names = counted(monkeypatch)
    opened(folder)
    assert names == ["5.png"]


def test_a_small_set_leaves_nothing_behind(kept, folder, monkeypatch):
    monkeypatch.setattr(residence, "BLINK", 60.0)
    files = opened(folder)
    assert type(files.images) is workers.Held and list(kept.iterdir()) == []
    Image.new("RGB", (9, 9)).save(folder / "x.png")
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"bad\.png"):
        opened(folder)
    assert list(kept.iterdir()) == []


def test_a_killed_build_is_gone_on_with(kept, folder, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True) as child:
        for _ in range(8):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    names = counted(monkeypatch)
    files = opened(folder)
    assert 0 < len(names) < 12
    assert torch.equal(pixels(files), pixels(opened(folder, cache=False)))


def test_an_interrupted_build_is_gone_on_with(kept, folder, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_ROWS", 2)
    monkeypatch.setattr(workers, "TELL_SECONDS", 0.0)
    work = residence.open_files(sorted(folder.glob("*.png")), 8, skip_bad=False, cache=True)
    assert isinstance(next(work), Progress)
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt())
    names = counted(monkeypatch)
    opened(folder)
    assert 0 < len(names) < 12


def test_a_torn_line_of_the_journal_is_not_believed(kept, folder, monkeypatch):
    whole = pixels(opened(folder))
    [entry] = kept.iterdir()
    (entry / "journal").write_text('{"done": [[0, 6]], "faults": {}}\n{"done": [[6, 12')
    names = counted(monkeypatch)
    assert torch.equal(pixels(opened(folder)), whole) and len(names) == 6
    assert torch.equal(pixels(opened(folder)), whole) and len(names) == 6


def test_a_cut_file_of_the_cache_is_decoded_anew(kept, folder, monkeypatch):
    whole = pixels(opened(folder))
    [entry] = kept.iterdir()
    os.truncate(entry / "pixels", 100)
    assert torch.equal(pixels(opened(folder)), whole)


def test_the_second_of_two_waits_and_then_reads(kept, folder, monkeypatch):
    entry = cache.Entry([os.path.realpath(path) for path in sorted(folder.glob("*.png"))], 8)
    for _ in entry.begin():
        pass
    work = residence.open_files(sorted(folder.glob("*.png")), 8, skip_bad=False, cache=True)
    assert "another process is decoding" in next(work).text
    done(workers.fill(entry, range(12), 8, lambda row: residence.decode(Path(entry.files[row]), 8), go_on=False))
    entry.end()
    names = counted(monkeypatch)
    assert len(done(work).rows) == 12 and names == []


def test_two_processes_at_once_both_get_the_pixels(kept, folder, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()  # it decodes now
        names = counted(monkeypatch)
        files = opened(folder)
        assert len(child.communicate()[0].split()) == 11 and child.returncode == 0
    assert names == [] and torch.equal(pixels(files), pixels(opened(folder, cache=False)))


def test_a_lock_whose_holder_is_gone_does_not_block(kept, folder):
    entry = cache.Entry([os.path.realpath(path) for path in sorted(folder.glob("*.png"))], 8)
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    )
    entry.folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", code, entry.folder], check=False)
    assert told(folder, Progress) == []


def test_a_full_disk_leaves_nothing_and_the_pictures_go_to_memory(kept, folder, monkeypatch):
    def full(self, chunk):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = pixels(opened(folder, cache=False))
    monkeypatch.setattr(cache.Entry, "write", full)
    [warning] = told(folder, Warn)
    assert "No space left on device" in warning and list(kept.iterdir()) == []
    assert torch.equal(pixels(opened(folder)), whole)


def test_a_disk_with_too_little_room_is_left_alone(kept, folder, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    [warning] = told(folder, Warn)
    assert "0.0 GB of disk are free" in warning and list(kept.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_costs_a_warning(kept, folder):
    kept.parent.mkdir(parents=True)
    kept.write_text("a file where the folder should be")
    [warning] = told(folder, Warn)
    assert "not kept for the next run" in warning
    assert type(opened(folder).images) is workers.Held


def test_a_read_only_cache_is_read_and_else_passed_over(kept, folder):
    if os.geteuid() == 0:
        pytest.skip("root writes into read-only folders")
    whole = pixels(opened(folder))
    for path in (*kept.iterdir(), kept):
        path.chmod(0o500)
    assert type(opened(folder).images) is cache.Mapped
    assert torch.equal(pixels(opened(folder, size=8)), whole) and told(folder, Warn) == []
    assert type(opened(folder, size=4).images) is workers.Held
    for path in (kept, *kept.iterdir()):
        path.chmod(0o700)


@pytest.mark.parametrize("cached", [True, False])
def test_a_bad_picture_is_named_by_every_run_and_left_out_when_told_to(kept, folder, monkeypatch, cached):
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:200])
    for _ in range(2):
        with pytest.raises(InputError, match=r"cannot read .*7\.png: ") as first:
            opened(folder, cache=cached)
    opened(folder, skip_bad=True, cache=cached)
    names = counted(monkeypatch)
    files = opened(folder, skip_bad=True, cache=cached)
    assert len(names) == (0 if cached else 12) and len(files.kept) == 11
    reason = str(first.value).partition("cannot read ")[2].splitlines()[0]
    assert files.warnings == [f"1 unreadable images are left out (e.g. {reason})"]


def test_what_the_machine_refused_once_is_tried_again(kept, folder, monkeypatch):
    def refusing(path, size):
        if path.name == "2.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, size)

    plain = residence.decode
    monkeypatch.setattr(residence, "decode", refusing)
    assert len(opened(folder, skip_bad=True).kept) == 11
    monkeypatch.setattr(residence, "decode", plain)
    names = counted(monkeypatch)
    assert len(opened(folder).kept) == 12 and names == ["2.png"]


def test_links_to_one_file_are_decoded_once(kept, folder, monkeypatch):
    (folder / "again.png").symlink_to(folder / "4.png")
    names = counted(monkeypatch)
    files = opened(folder)
    assert len(names) == len(files.images) == 12 and len(files.rows) == 13
    assert torch.equal(pixels(files)[-1], files.images.read(files.rows[-1:])[0])


def test_too_many_for_disk_and_memory_are_decoded_at_each_reading_and_known_the_second_time(kept, folder, monkeypatch):
    whole = pixels(opened(folder, cache=False))
    no_room(monkeypatch)
    plain = cache.Entry._need_space
    monkeypatch.setattr(cache.Entry, "_need_space", lambda self: refused() if self.with_pixels else plain(self))
    assert any("decoded anew at each reading" in text for text in told(folder, Warn))
    names = counted(monkeypatch)
    files = opened(folder)
    assert names == [] and torch.equal(pixels(files), whole) and len(names) == 12
    (folder / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png"):
        pixels(files)


def test_entries_unused_for_30_days_make_room_for_a_new_one(kept, folder):
    opened(folder)
    [old] = kept.iterdir()
    os.utime(old, (0, 0))
    opened(folder)  # which counts as use
    opened(folder, size=4)
    assert old.exists()
    os.utime(old, (0, 0))
    opened(folder, size=5)
    assert not old.exists() and len(list(kept.iterdir())) == 2


def test_a_data_set_is_the_same_from_the_cache(kept, tmp_path):
    root = photographs(tmp_path / "classes", classes=2, each=6)
    first, again = (done(open_dataset("folder", {"root": str(root), "size": 8, "test": 2}, seed=0)) for _ in range(2))
    bare = done(open_dataset("folder", {"root": str(root), "size": 8, "test": 2, "cache": False}, seed=0))
    for other in (again, bare):
        assert torch.equal(first.train.read(torch.arange(10)), other.train.read(torch.arange(10)))
        assert first.train.names == other.train.names and first.warnings == other.warnings


def test_where_pictures_live_changes_no_result():
    plain, bare = (recipe.load("folder", sets, folder="cats") for sets in ((), ("data.cache=false",)))
    assert plain.dump()["data"]["cache"] is True and bare.dump()["data"]["cache"] is False
    assert plain.stage_hash("pretrain", "") == bare.stage_hash("pretrain", "")
