"""`verify` and `why` as commands: with a daemon, without one, and with a memory that cannot be had."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoperfd.ctl import copies
from autoperfd.ctl.main import main
from autoperfd.daemon.control import Reply
from autoperfd.errors import AutoperfError, DaemonDown
from tests.ctl.conftest import Daemon
from tests.verify.support import FOLDER, NAME, finished

TEST = "4SEC_300B_1PUB_1SUB_REL_UC_100LC"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a finished experiment; not to be changed."""
    return finished(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def state(lab: Path, pristine: Path) -> Path:
    """A copy of it as the state folder of the lab."""
    (lab / "state").rmdir()
    return Path(shutil.copytree(pristine, lab / "state"))


@pytest.fixture
def ctl(lab: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`autoperfctl WORDS`: its exit status, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["--config", str(lab / "autoperfd.toml"), *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


Ctl = Callable[..., tuple[int, str, str]]


def copying(state: Path) -> Callable[[Mapping[str, Any]], Reply]:
    """A daemon's answer to `copy`."""

    def answer(args: Mapping[str, Any]) -> Reply:
        (state / "copies").mkdir(exist_ok=True)
        for old in (state / "copies").iterdir():
            old.unlink()
        copy = state / "copies" / f"memory-{time.monotonic_ns()}.db"
        shutil.copy(state / "autoperf.db", copy)
        return Reply(data={"memory": str(copy), "results": str(state / "results")})

    return answer


# ---------------------------------------------------------------- verify


def test_a_clean_experiment(daemon: Daemon, state: Path, ctl: Ctl) -> None:
    daemon.replies["copy"] = copying(state)
    status, out, err = ctl("verify", NAME)
    assert (status, err) == (0, "")
    assert out == (
        "PCG #1: nothing is wrong; looked at 5 tests, 7 attempts, 6 archives, 12 lines and 40 rows, 0.0 MB\n"
    )
    status, out, _ = ctl("verify", FOLDER, "--json")
    data = json.loads(out)
    assert (status, data["clean"], data["running"], data["problems"]) == (0, True, True, [])
    assert [command for command, _ in daemon.asked] == ["copy", "copy"]


@pytest.mark.usefixtures("state")
def test_a_clean_experiment_of_a_daemon_that_is_down(ctl: Ctl) -> None:
    status, out, err = ctl("verify", NAME)
    assert (status, err) == (0, "")
    assert out.startswith("autoperfd is not running; its memory was read where it lies.\nPCG #1: nothing is wrong")


def test_problems_and_notes_are_told(daemon: Daemon, state: Path, ctl: Ctl) -> None:
    daemon.replies["copy"] = copying(state)
    place = state / "results" / FOLDER
    shutil.copy(place / "ess.csv", place / "ess.edited-20261124T031200Z.csv")
    (place / "mine \x1b[31m.txt").touch()
    (place / "data" / TEST / "attempt-2.tar.gz").unlink()
    status, out, err = ctl("verify", NAME)
    assert (status, err) == (1, "")
    assert out.splitlines()[0].startswith("PCG #1: 2 problems in ")
    assert out.splitlines()[1:] == [
        f"! data/{TEST}/attempt-2.tar.gz is missing; attempt 2 ended as no-data",
        "! mine \\x1b[31m.txt belongs to no attempt of this experiment",
        "note: ess.edited-20261124T031200Z.csv is a sheet that somebody edited; it was kept aside",
    ]
    status, out, _ = ctl("verify", NAME, "--json")
    problem = json.loads(out)["problems"][0]
    assert status == 1
    assert (problem["test"], problem["attempt"], problem["file"]) == (TEST, 2, f"data/{TEST}/attempt-2.tar.gz")


def test_a_file_of_an_attempt_that_began_meanwhile_is_no_problem(daemon: Daemon, state: Path, ctl: Ctl) -> None:
    """Between two copies a daemon goes on: what the first one does not know the second may."""
    memory = state / "autoperf.db"
    now = memory.read_bytes()
    db = sqlite3.connect(memory)
    db.execute("DELETE FROM attempts WHERE test = ? AND number = 2", (TEST,))
    db.commit()
    db.close()
    earlier = memory.read_bytes()

    def answer(args: Mapping[str, Any]) -> Reply:
        memory.write_bytes(earlier if len(daemon.asked) == 1 else now)
        return copying(state)(args)

    daemon.replies["copy"] = answer
    _, out, _ = ctl("verify", NAME, "--json")
    data = json.loads(out)
    assert len(daemon.asked) == 2
    assert not any("belongs to no attempt" in problem["sentence"] for problem in data["problems"])
    assert not any("ess.csv" in problem["sentence"] for problem in data["problems"])


def test_an_unknown_experiment(daemon: Daemon, state: Path, ctl: Ctl) -> None:
    daemon.replies["copy"] = copying(state)
    status, out, err = ctl("verify", "nope")
    assert (status, out) == (1, "")
    assert err == ("autoperfctl: nope cannot be verified: there is no experiment 'nope'; known are: PCG #1\n")


def test_no_daemon_and_no_memory(lab: Path, ctl: Ctl) -> None:
    for words in (("verify", NAME), ("why", TEST)):
        status, out, err = ctl(*words)
        assert (status, out) == (3, "")
        assert f"there is no memory in {lab}/state" in err and "systemctl start autoperfd" in err


# ---------------------------------------------------------------- results


def test_results_are_where_the_daemon_says(daemon: Daemon, state: Path, ctl: Ctl) -> None:
    place = state / "results" / FOLDER
    daemon.replies["copy"] = copying(state)
    status, out, err = ctl("results", FOLDER)
    assert (status, err) == (0, "")
    assert daemon.asked == [("copy", {})]
    assert out.splitlines() == [
        f"PCG #1: {place}",
        "  ess.csv      6 attempts",
        "  summary.csv  3 tests with complete data",
        "  data/        an archive an attempt: what was started, what was printed, what was measured",
        "  5 tests: 2 ok, 1 no-summary, 1 failed, 1 skipped",
        "",
        "Figures (latency one way; throughput of all subscribers):",
        "TEST                                       STATE  TRIES  MEAN us  99 % us  SAMPLES/s  MBIT/s  LOST %",
        "4SEC_100B_1PUB_1SUB_REL_UC_100LC              ok      1     12.5        -          -       -       -",
        "4SEC_200B_1PUB_1SUB_REL_UC_100LC              ok      2     12.5        -          -       -       -",
        "4SEC_300B_1PUB_1SUB_REL_UC_100LC  failed NO-DATA      2        -        -          -       -       -",
        "4SEC_400B_1PUB_1SUB_REL_UC_100LC         skipped      0        -        -          -       -       -",
        "4SEC_500B_1PUB_1SUB_REL_UC_100LC      no-summary      1     12.5        -          -       -       -",
    ]


def test_results_grouped_count_what_failed(state: Path, ctl: Ctl) -> None:
    status, out, _ = ctl("results", NAME, "--by", "use_reliable,attempts", "--where", "datalen_bytes<=400")
    assert status == 0
    assert out.splitlines()[6:] == [
        "4 tests of them chosen.",
        "Figures are means over the tests that are ok (latency one way; throughput of all subscribers):",
        "use_reliable  attempts  TESTS  TRIED  OK  FAILED  OTHER  MEAN us  99 % us  SAMPLES/s  MBIT/s  LOST %",
        "true                 0      1      0   0       0      1        -        -          -       -       -",
        "true                 1      1      1   1       0      0     12.5        -          -       -       -",
        "true                 2      2      2   1       1      0     12.5        -          -       -       -",
    ]
    _, out, _ = ctl("results", NAME, "--by", "use_reliable", "--json")
    (group,) = json.loads(out)["groups"]
    assert (group["use_reliable"], group["tests"], group["attempted"]) == (True, 5, 4)
    assert {name: group[name] for name in ("ok", "no-summary", "failed", "skipped", "open", "missing")} == {
        "ok": 2, "no-summary": 1, "failed": 1, "skipped": 1, "open": 0, "missing": 0,
    }  # fmt: skip
    assert group["means"]["latency_mean_us"] == 12.5 and group["of"]["latency_mean_us"] == 2


def test_results_as_csv(state: Path, ctl: Ctl) -> None:
    status, out, _ = ctl("results", NAME, "--csv", "--where", "state!=skipped")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and len(rows) == 4
    assert [(row["state"], row["datalen_bytes"], row["latency_mean_us"]) for row in rows] == [
        ("ok", "100", "12.5"),
        ("ok", "200", "12.5"),
        ("failed", "300", ""),
        ("no-summary", "500", "12.5"),
    ]
    _, out, _ = ctl("results", NAME, "--csv", "--by", "state")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["state"], row["tests"], row["mean_latency_mean_us"]) for row in rows] == [
        ("failed", "1", ""),
        ("no-summary", "1", ""),
        ("ok", "2", "12.5"),
        ("skipped", "1", ""),
    ]


def test_results_as_parquet(state: Path, ctl: Ctl, lab: Path) -> None:
    for _ in range(2):
        assert ctl("results", NAME, "--parquet", str(lab / "r.parquet"), "--where", "state=ok") == (0, "", "")
    assert (lab / "r.parquet").read_bytes().startswith(b"PAR1")
    (lab / "mine").write_text("mine")
    status, _, err = ctl("results", NAME, "--parquet", str(lab / "mine"))
    assert status == 1 and "it is no Parquet file" in err and (lab / "mine").read_text() == "mine"
    assert "hold tests, not groups" in ctl("results", NAME, "--parquet", "x", "--by", "state")[2]


@pytest.mark.parametrize("width", [40, 72, 90])
def test_results_fit_a_narrow_screen(width: int, state: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = ctl("results", NAME)
    table = out.splitlines()[7:]
    assert table[-1].startswith("(no room for ") and "LOST %" in table[-1]
    assert max(map(len, table[:-1])) <= max(width, 58) and "TRIES" in table[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--where", "use_relyable=true"), "there is no column 'use_relyable'\n  Did you mean use_reliable?"),
        (("--by", "a"), "there is no column 'a'\n  There are test_name, state, "),
        (("--where", "x"), "'x' is no condition\n  One looks like "),
        (("--where", "state=fail"), "no test is ever 'fail'\n  A state is one of ok, no-summary, failed, "),
        (("--where", "use_reliable<true"), "asks for an order, but 'true' is no number"),
    ],
)
def test_results_that_cannot_be_chosen(words: tuple[str, ...], said: str, state: Path, ctl: Ctl) -> None:
    status, out, err = ctl("results", NAME, *words)
    assert (status, out) == (1, "") and said in err


def test_the_daemon_is_asked_to_write_the_spreadsheets_anew(daemon: Daemon, ctl: Ctl) -> None:
    assert ctl("results", NAME, "--rebuild") == (0, "rebuild done\n", "")
    assert daemon.asked[-1] == ("rebuild", {"experiment": NAME})


@pytest.mark.usefixtures("state")
def test_without_a_daemon_the_next_start_writes_them_anew(ctl: Ctl) -> None:
    status, _, err = ctl("results", NAME, "--rebuild")
    assert status == 3 and "it looks at every spreadsheet when it starts" in err


def test_results_without_a_daemon(state: Path, ctl: Ctl) -> None:
    status, out, _ = ctl("results", NAME, "--json")
    data = json.loads(out)
    assert (status, data["experiment"], data["attempts"], data["planned"]) == (0, NAME, 6, 5)
    assert data["counts"] == {"ok": 2, "no-summary": 1, "failed": 1, "skipped": 1, "open": 0, "missing": 0}
    assert data["folder"] == str(state / "results" / FOLDER)
    assert data["tests"][1]["latency_mean_us"] == 12.5 and data["tests"][2]["code"] == "NO-DATA"
    assert ctl("results", "x")[::2] == (1, "autoperfctl: there is no experiment 'x'\n  Known are: PCG #1\n")


def test_results_do_not_depend_on_the_spreadsheets(state: Path, ctl: Ctl) -> None:
    before = ctl("results", NAME)
    path = state / "results" / FOLDER / "ess.csv"
    path.unlink()
    path.symlink_to("/dev/zero")
    (path.parent / "summary.csv").write_text("mine")
    assert ctl("results", NAME) == before


def test_results_of_a_memory_that_makes_no_sense(state: Path, ctl: Ctl) -> None:
    with contextlib.closing(sqlite3.connect(state / "autoperf.db")) as db, db:
        db.execute("UPDATE lives SET life = 'x'")
    status, _, err = ctl("results", NAME)
    assert status == 1 and "the memory cannot be read" in err and "autoperfctl verify" in err


# ---------------------------------------------------------------- copies


def nobody(command: str, args: dict[str, object]) -> dict[str, object]:
    raise DaemonDown("autoperfd is not running")


@contextmanager
def locked(state: Path) -> Iterator[None]:
    fd = os.open(state / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


def test_a_memory_that_a_daemon_holds_is_left_alone(state: Path, tmp_path: Path) -> None:
    with locked(state), pytest.raises(AutoperfError, match="but does not answer"):
        copies.take(nobody, state, tmp_path)
    assert not copies.take(nobody, state, tmp_path).live


def test_an_interrupted_transaction_is_rolled_back_in_the_copy_alone(state: Path, tmp_path: Path) -> None:
    memory, aside = state / "autoperf.db", tmp_path / "aside"
    aside.mkdir()
    db = sqlite3.connect(memory, isolation_level=None)
    db.execute("PRAGMA cache_size=0")
    db.execute("PRAGMA journal_mode=PERSIST")
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM history")
    db.execute("UPDATE attempts SET status = 'success', evidence = hex(zeroblob(20000))")
    for suffix in ("", "-journal"):
        shutil.copy(f"{memory}{suffix}", aside / f"autoperf.db{suffix}")
    db.execute("ROLLBACK")
    db.close()
    torn = (aside / "autoperf.db").read_bytes()
    assert torn != memory.read_bytes()
    (aside / "lock").touch()
    copy = copies.take(nobody, aside, tmp_path)
    with sqlite3.connect(copy.memory) as copied:
        assert copied.execute("SELECT COUNT(*) FROM history").fetchone()[0] > 5
        assert copied.execute("SELECT COUNT(*) FROM attempts WHERE status = 'success'").fetchone() == (2,)
    copied.close()
    assert (aside / "autoperf.db").read_bytes() == torn


def test_a_copy_that_somebody_else_replaced_is_asked_for_again(state: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(command: str, args: dict[str, object]) -> dict[str, object]:
        asked.append(command)
        where = state / ("gone.db" if len(asked) == 1 else "autoperf.db")
        return {"data": {"memory": str(where), "results": str(state / "results")}}

    assert copies.take(ask, state, tmp_path).live
    assert asked == ["copy", "copy"]
    with pytest.raises(AutoperfError, match="is not there"):
        copies.take(lambda command, args: {"data": {"memory": str(state / "gone.db")}}, state, tmp_path)


def test_a_daemon_that_starts_does_not_wait_for_a_large_memory(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "HOLD_SECS", -1.0)
    with pytest.raises(AutoperfError, match="cannot be copied in a moment"):
        copies.take(nobody, state, tmp_path)


# ---------------------------------------------------------------- why


def test_why_asks_the_daemon(daemon: Daemon, ctl: Ctl) -> None:
    daemon.replies["why"] = Reply(text="because\n", data={"next": "nothing"})
    assert ctl("why", TEST, "--experiment", NAME) == (0, "because\n", "")
    assert daemon.asked == [("why", {"test": TEST, "experiment": NAME})]
    status, out, _ = ctl("why", TEST, "--json")
    assert (status, json.loads(out)) == (0, {"next": "nothing"})


@pytest.mark.usefixtures("state")
def test_why_reads_the_memory_when_the_daemon_is_down(ctl: Ctl) -> None:
    status, out, err = ctl("why", TEST)
    assert (status, err) == (0, "")
    assert out.startswith(
        "autoperfd is not running; its memory was read where it lies.\n\n"
        f"{TEST} of PCG #1: given up after 2 attempts: no-data\n"
    )
    assert f"To try it again: autoperfctl retry {TEST}\n" in out
    status, out, _ = ctl("why", TEST, "--json", "--experiment", FOLDER)
    data = json.loads(out)
    assert (status, data["verdict"], data["running"], len(data["attempts"])) == (0, "no-data", False, 2)


@pytest.mark.usefixtures("state")
def test_why_knows_no_such_test(ctl: Ctl) -> None:
    assert ctl("why", "nope")[::2] == (
        1,
        "autoperfctl: no experiment has a test 'nope'\n  The ESS of an experiment lists names\n",
    )
    assert ctl("why", TEST, "--experiment", "x")[::2] == (1, "autoperfctl: there is no experiment 'x'\n")


def test_why_of_a_damaged_memory(state: Path, ctl: Ctl) -> None:
    db = sqlite3.connect(state / "autoperf.db")
    db.execute("UPDATE lives SET life = 'x'")
    db.commit()
    db.close()
    status, _, err = ctl("why", TEST)
    assert status == 1 and "cannot be read" in err and "autoperfctl verify" in err
