"""How much is kept in the run folder: sizes, pieces, what goes first, and what stays."""

import os
import threading

import pytest

from dmq import public
from dmq.errors import DmqError, Refused
from dmq.store import exports, folders, quota


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(quota, "_process", set())
    return tmp_path / "runs"


def keep(folder, size, age=None):
    """A piece of `size` bytes that was written `age` seconds before the epoch's 10^9th second,
    or now, by a job.
    """
    with quota.job() as held, quota.working(held), folders.write_folder(folder) as part:
        (part / "report.json").write_bytes(b"x" * size)
    if age is not None:
        for path in (folder / "report.json", folder):
            os.utime(path, (10**9 - age, 10**9 - age))
    return folder


@pytest.mark.parametrize(
    "said, size",
    [
        ("700", 700),
        ("2GB", 2 * 10**9),
        ("1.5 MiB", 1572864),
        ("3k", 3000),
        ("1TB", 10**12),
        ("0", 0),
        ("10B", 10),
    ],
)
def test_sizes(said, size):
    assert quota.parse_size(said) == size


@pytest.mark.parametrize("said", ["lots", "-1", "2 PB", "1e9", "GB", "2GBB", "1..5G"])
def test_what_is_no_size(said, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS_QUOTA", said)
    with pytest.raises(DmqError, match=r"RUNS_QUOTA is .*write a number of bytes"):
        quota.quota()


def test_there_is_one_where_everybody_may_save(monkeypatch):
    monkeypatch.delenv("DMQ_RUNS_QUOTA", raising=False)
    monkeypatch.delenv("DMQ_PUBLIC", raising=False)
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert quota.quota() is None
    monkeypatch.setenv("SPACE_ID", "owner/name")
    assert quota.quota() == quota.PUBLIC
    monkeypatch.setenv("DMQ_PUBLIC", "0")
    assert quota.quota() is None


@pytest.mark.parametrize(
    "inside, piece",
    [
        ("a run", "a run"),
        ("a run/images/0", "a run"),
        ("captures/k", "captures/k"),
        ("benchmarks/b/rows/1", "benchmarks/b"),
        ("visitors/v/a run/x", "visitors/v/a run"),
        ("visitors/v/exports/e/unet", "visitors/v/exports/e"),
        ("captures/.part-1/stats", None),
        ("captures", None),
        ("visitors/v", None),
        ("../elsewhere", None),
    ],
)
def test_pieces(home, inside, piece):
    assert quota.piece_of(home, home / inside) == (piece and (home / piece).resolve())


def test_the_oldest_goes_first(home, monkeypatch):
    mine = home / "visitors" / "abc" / "run"
    old = [
        keep(home / "captures" / "a", 100, 50),
        keep(mine, 100, 40),
        keep(home / "tables" / "b", 100, 60),
    ]
    kept = keep(home / "benchmarks" / "c", 100, 10)
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "350")
    keep(home / "exports" / "d", 100)
    assert [piece.exists() for piece in old] == [False, True, False]
    keep(home / "exports" / "e", 120)
    assert not mine.exists() and not mine.parent.exists(), "nor an empty folder of that visitor"
    assert kept.exists()
    assert sorted(path.name for path in home.rglob(".*")) == [], "nothing is left behind"


def test_what_is_not_over_stays(home, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "200")
    pieces = [keep(home / "a", 100, 20), keep(home / "b", 100, 10)]
    assert all(piece.exists() for piece in pieces)
    keep(home / "b", 101, 5)
    assert [piece.exists() for piece in pieces] == [False, True]


def test_what_a_running_job_has_written_stays(home, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "250")
    with quota.job() as held:
        with quota.working(held), folders.write_folder(home / "benchmarks" / "long") as part:
            (part / "manifest.json").write_bytes(b"x" * 100)
        other = threading.Thread(target=lambda: [keep(home / name, 100, 1) for name in "abcd"])
        other.start()
        other.join()
        assert (home / "benchmarks" / "long").exists() and (home / "d").exists()
        assert not any((home / name).exists() for name in "abc")
    keep(home / "e", 100)
    keep(home / "f", 100)
    assert not (home / "benchmarks" / "long").exists(), "the job has ended"


def test_what_this_process_wrote_without_a_job_stays(home, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "100")
    for name in "ab":
        with folders.write_folder(home / name) as part:
            (part / "report.json").write_bytes(b"x" * 100)
    assert (home / "a").exists() and (home / "b").exists()


def test_one_that_is_larger_than_all_is_kept_until_the_next(home, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "10")
    big = keep(home / "a", 100, 1)
    quota.make_room(home)
    assert big.exists()
    keep(home / "b", 100)
    assert not big.exists()


def test_links_are_not_followed(home, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "precious").write_text("x" * 500)
    home.mkdir()
    (home / "link").symlink_to(tmp_path / "else")
    monkeypatch.setenv("DMQ_RUNS_QUOTA", "10")
    keep(home / "a", 100, 1)
    keep(home / "b", 100)
    assert (tmp_path / "else" / "precious").exists() and not (home / "a").exists()


def test_a_visitor_writes_in_the_run_folder_only(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_PUBLIC", "1")
    for place in (tmp_path / "out", home / ".." / "out", home / "exports" / ".." / ".." / "out"):
        with pytest.raises(Refused), folders.write_folder(place):
            raise AssertionError("a folder outside was opened")
    assert not (tmp_path / "out").exists()
    with public.as_visitor(public.new_token()), folders.write_folder(exports.export_folder("x")):
        pass
