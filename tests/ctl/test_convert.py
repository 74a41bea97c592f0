"""convert: files as AutoPerf's versions have them become ours, and nothing in them is lost unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoperfd.core.config import Experiment, read_experiments
from autoperfd.ctl.convert import Converted, convert
from autoperfd.ctl.main import main
from autoperfd.errors import AutoperfError
from autoperfd.tools import TOOLS

SETTINGS: dict[str, Any] = {
    "duration_secs": [30],
    "datalen_bytes": [100],
    "pub_count": [1, 50, 100],
    "sub_count": [1, 50, 100],
    "use_reliable": [True, False],
    "use_multicast": [True, False],
    "durability_level": [0, 1, 2, 3],
    "latency_count": [100],
}
MACHINES: list[dict[str, Any]] = [
    {
        "machine_name": name,
        "participant_allocation": role,
        "ip": ip,
        "ssh_key_path": "~/.ssh/id_rsa",
        "username": "someone",
        "perftest_exec_path": "~/rtiperftest/bin/perftest_publisher",
    }
    for name, role, ip in (("p1", "pub", "192.0.2.55"), ("p2", "sub", "192.0.2.56"))
]
PCG: dict[str, Any] = {
    "experiment_name": "PCG #1",
    "combination_generation_type": "pcg",
    "resuming_test_name": "",
    "qos_settings": SETTINGS,
    "slave_machines": MACHINES,
}
LATEST = """
[[campaigns]]
campaign_name = "Slow network"
gen_type = "PCG"
total_experiments = 0
max_failures = 10
max_retries = 5
restart_after_retries = 3
ping_attempts = 10
ssh_attempts = 10
experiment_names = []
bw_rate = "8mbit"

    [campaigns.qos_settings]
    duration_secs = [ 600 ]
    datalen_bytes = [ 1000 ]
    pub_count = [1, 5, 10]
    sub_count = [1, 5, 10]
    use_reliable = [ true, false ]
    use_multicast = [ true, false ]
    durability = [ 0 ]
    latency_count = [ 100 ]

    [[campaigns.slave_machines]]
    hostname = "p1"
    participant_type = "pub"
    ip = "192.0.2.55"
    ssh_key_path = "~/.ssh/id_rsa"
    username = "someone"
    perftest_path = "~/rtiperftest/perftest_publisher"
    smart_plug_name = "plug 1"
    smart_plug_ip = "192.0.2.31"

    [[campaigns.slave_machines]]
    hostname = "p2"
    participant_type = "sub"
    ip = "192.0.2.56"
    ssh_key_path = "~/.ssh/id_rsa"
    username = "someone"
    perftest_path = "~/rtiperftest/perftest_publisher"
"""
LISTED = """
[[campaigns]]
campaign_name = "What failed"
combination_generation_type = ""
rcg_target_test_count = 0
quit_after_n_failed_tests = 0
retry_failed_tests_n_times = 0
custom_test_list = [
    "600SEC_512B_20PUB_20SUB_REL_UC_0DUR_100LC",
    "600SEC_512B_5P_20S_REL_UC_0DUR_100LC",
    "600s_512b_nonsense",
    "600s_512B_1P_2S_be_mc_0dur_100lc",
    "600SEC_512B_20P_20S_REL_UC_0DUR_100LC",
]

  [campaigns.qos_settings]
  duration_secs = [1]
  datalen_bytes = [1]

  [campaigns.noise_generation]
  packet_loss = "0%"
    [campaigns.noise_generation.delay]
    value = "0ms"
"""
# As its specification has it.
QUOTED = """
[{
    'experiment_name': 'RCG #1',  // the first
    'combination_generation_type': 'rcg',
    'rcg_target_test_count': 500,
    'qos_settings': {
        'duration_secs': [30], 'datalen_bytes': [100], 'pub_count': [1, 100], 'sub_count': [1, 100],
        'use_reliable': [true, false], 'use_multicast': [true, false], 'durability_level': [0, 3],
        'latency_count': [100],
    },
    'slave_machines': [{
        'machine_name': 'p1', 'participant_allocation': 'all', 'ip': '192.0.2.55', 'ssh_key_path': '~/.ssh/id_rsa',
        'username': 'someone', 'perftest_exec_path': '~/it\\'s here/perftest_publisher'
    }]
}]
"""


def converted(source: str | object) -> Converted:
    text = source if isinstance(source, str) else json.dumps(source)
    return convert(text.encode(), "old", ())


def read(source: str | object) -> tuple[Experiment, ...]:
    done = converted(source)
    assert done.problems == ()
    return read_experiments(done.text.encode(), "new", TOOLS, ())


def test_its_json() -> None:
    (experiment,) = read([PCG])
    assert (experiment.name, experiment.generation, experiment.tool) == ("PCG #1", "pcg", "perftest")
    assert experiment.sweep.count == 3 * 3 * 2 * 2 * 4
    assert experiment.sweep.name_at(0) == "30SEC_100B_1PUB_1SUB_REL_MC_0DUR_100LC"
    assert [(m.name, m.allocation, m.ip, m.username) for m in experiment.machines] == [
        ("p1", "pub", "192.0.2.55", "someone"),
        ("p2", "sub", "192.0.2.56", "someone"),
    ]
    assert {m.ssh_key_path for m in experiment.machines} == {"~/.ssh/id_rsa"}
    assert {m.exec_path for m in experiment.machines} == {"~/rtiperftest/bin/perftest_publisher"}
    assert converted([PCG]).notes == ()


def test_several_and_one_alone() -> None:
    assert [each.name for each in read([PCG, {**PCG, "experiment_name": "PCG #2"}])] == ["PCG #1", "PCG #2"]
    assert [each.name for each in read(PCG)] == ["PCG #1"]
    assert [each.name for each in read({"campaigns": [PCG]})] == ["PCG #1"]


def test_its_latest_toml() -> None:
    (experiment,) = read(LATEST)
    assert (experiment.name, experiment.generation, experiment.sweep.count) == ("Slow network", "pcg", 36)
    assert (experiment.policy.retries, experiment.policy.halt_after_consecutive_failures) == (5, 10)
    assert experiment.sweep.name_at(0) == "600SEC_1000B_1PUB_1SUB_REL_MC_0DUR_100LC"
    assert [(m.name, m.allocation) for m in experiment.machines] == [("p1", "pub"), ("p2", "sub")]
    done = converted(LATEST)
    for words in (
        'bw_rate = "8mbit"',
        "restart_after_retries = 3",
        "ping_attempts = 10",
        "ssh_attempts = 10",
        'smart_plug_name = "plug 1"',
        'smart_plug_ip = "192.0.2.31"',
    ):
        assert f"# {words}  (not carried over: " in done.text
        assert any(note.startswith(f"Slow network: {words} is not carried over: ") for note in done.notes)
    assert len(done.notes) == 6


def test_comments_are_not_dropped_unsaid() -> None:
    (said,) = [note for note in converted(f"# by night only\n  # twice\n{LATEST}").notes if "comments" in note]
    assert said == "its own comments are not carried over: # by night only, 2 in all"


def test_listed_tests_in_every_spelling() -> None:
    done = converted(LISTED)
    (table,) = tomli.loads(done.text)["experiments"]
    assert table["tests"] == [
        "600SEC_512B_20PUB_20SUB_REL_UC_0DUR_100LC",
        "600SEC_512B_5PUB_20SUB_REL_UC_0DUR_100LC",
        "600SEC_512B_1PUB_2SUB_BE_MC_0DUR_100LC",
    ]
    assert table["halt_after_consecutive_failures"] == 1_000_000
    assert table["retries"] == 0
    assert "qos_settings" not in table and "# duration_secs = [1]\n" in done.text
    said = "\n".join(done.notes)
    for words in (
        '"600s_512b_nonsense" is not carried over: that is no test name',
        '"600SEC_512B_20P_20S_REL_UC_0DUR_100LC" is not carried over: it is there already',
        "0 failures meant never to halt",
        "qos_settings is not carried over: the tests are listed",
        'noise_generation = {"packet_loss": "0%", "delay": {"value": "0ms"}} is not carried over: networks',
    ):
        assert words in said
    assert [problem.key for problem in done.problems] == ["experiments[0].slave_machines"]


def test_its_pseudo_json_and_a_drawn_experiment() -> None:
    (experiment,) = read(QUOTED)
    assert (experiment.name, experiment.generation, experiment.sweep.count) == ("RCG #1", "rcg", 500)
    assert experiment.machines[0].exec_path == "~/it's here/perftest_publisher"
    assert experiment.sweep.covers("30SEC_100B_37PUB_42SUB_BE_UC_2DUR_100LC")


def test_a_listing_goes_before_a_generation_as_there() -> None:
    done = converted([{**PCG, "custom_test_list": ["30SEC_100B_1P_1S_REL_UC_0DUR_100LC"], "rcg_target_test_count": 9}])
    (experiment,) = read_experiments(done.text.encode(), "new", TOOLS, ())
    assert experiment.sweep.count == 1
    assert "combination_generation_type" in done.notes[0] and "rcg_test_count = 9" in done.notes[1]


def test_its_oldest_json() -> None:
    old = {
        "name": "QoS",
        "random_combination_generation": True,
        "random_combination_count": 256,
        "settings": {"duration_s": [600], "pub_count": [1, 25], "sub_count": [1, 25], "reliability": [True]},
        "custom_tests_file": "",
        "machines": [
            {
                "name": "p1",
                "host": "192.0.2.1",
                "ssh_key": "/home/me/.ssh/id",
                "username": "me",
                "home_dir": "/home/me/",
                "perftest": "/opt/perftest",
                "participant_allocation": "both",
            }
        ],
    }
    (experiment,) = read([old])
    assert (experiment.name, experiment.generation, experiment.sweep.count) == ("QoS", "rcg", 256)
    assert (experiment.machines[0].ip, experiment.machines[0].allocation) == ("192.0.2.1", "all")
    assert converted([old]).notes == (
        'QoS: home_dir = "/home/me/" is not carried over: a path below it may begin with ~/',
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"experiment_name": "a", "campaign_name": "b"}, 'campaign_name = "b" is not carried over: experiment_name is'),
        ({"sudo": False}, "sudo = false is not carried over: there is no such setting here"),
        ({"speed": 0}, "speed = 0 is not carried over: there is no such setting here"),
        ({"colour": "red"}, 'colour = "red" is not carried over: there is no such setting here'),
        ({"combination_generation_type": "rcg"}, "without a number of tests, RCG goes on until the space is used up"),
        ({"rcg_target_test_count": 7}, "rcg_test_count = 7 is not carried over: only RCG stops"),
        ({"custom_test_list": "x"}, 'tests = "x" is not carried over: a list of test names is expected'),
        ({"slave_machines": ["p1"]}, 'slave_machines = "p1" is not carried over: a table is expected'),
        ({"slave_machines": "p1"}, 'slave_machines = "p1" is not carried over: a list of tables is expected'),
        ({"qos_settings": "x"}, 'qos_settings = "x" is not carried over: a table of lists is expected'),
        ({"custom_tests_file": "tests.txt"}, "list the tests of that file"),
        ({"noise_gen": {"delay": {}}}, "networks are not shaped here"),
        ({"a\x1b[2J": "\x1b]0;x\x07"}, r"a\x1b[2J = "),
    ],
)
def test_what_has_no_place_is_said(changed: dict[str, Any], words: str) -> None:
    done = converted([{**PCG, **changed}])
    assert words in "\n".join(done.notes)
    assert all(char == "\n" or char.isprintable() for char in done.text + "".join(done.notes))
    tomli.loads(done.text)


def test_what_stands_beside_the_experiments_is_said() -> None:
    done = converted({"campaigns": [PCG], "a\x1b[2J": {"b": 1}, "experiments": [], "c": False})
    assert done.notes == (
        'a\\x1b[2J = {"b": 1} is not carried over: there is no such setting here',
        "c = false is not carried over: there is no such setting here",
    )
    assert '# a\\x1b[2J = {"b": 1}  (not carried over: there is no such setting here)' in done.text.splitlines()
    assert [table["experiment_name"] for table in tomli.loads(done.text)["experiments"]] == ["PCG #1"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "it holds no experiments"),
        ("[]", "it holds no experiments"),
        ("3", "it holds no experiments"),
        ("[1, 2]", "it holds no experiments"),
        ('{"campaigns": 3}', "it holds no experiments"),
        ("[{'a': 1]", "old:1: text: found "),
        ('[{"a": 1, "a": 2}]', 'the key "a" stands twice'),
        ("[{'a': 1, 'a': 2}]", 'the key "a" stands twice'),
        ("[[campaigns]]\nname = ", "old:2: text: found "),
        ("[" * 100_000, "old"),
        ("[{'a': " * 50_000, "old"),
        ('[{"a": ' + "[" * 30 + "]" * 30 + "}]", "nested more than 20 deep"),
        ("[{1: 2}]", "not every key in it is a string"),
        ("[{'a': {1, 2}}]", "it holds a set"),
        ("[[campaigns]]\nname = 1979-05-27", "it holds a date"),
        ('[{"a": "\\ud800"}]', "half a character"),
        ("[{[1]: 2}]", "old:1: text: found "),
        ("[{'a': {{}}}]", "old:1: text: found "),
        ("[{'a': 0x" + "f" * 5000 + "}]", "a number of more than 1100 bits"),
        ("[[campaigns]]\nmax_retries = 0x" + "f" * 5000, "a number of more than 1100 bits"),
        ("\xff\x00", "cannot convert old"),
    ],
)
def test_what_is_no_such_file_is_refused(source: str, words: str) -> None:
    with pytest.raises(AutoperfError) as caught:
        convert(source.encode("latin-1") if "\xff" in source else source.encode(), "old", ())
    assert words in caught.value.message or "UTF-8" in caught.value.message


def test_a_text_that_ends_nowhere_is_read_once() -> None:
    with pytest.raises(AutoperfError):
        converted("[{'a': " + "'\\" * 400_000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from([*PCG, "campaign_name", "custom_test_list", "max_failures", "rcg_target_test_count", "bw_rate"])


def test_of_two_names_for_one_key_ours_wins_and_the_other_is_told() -> None:
    done = converted([{"campaign_name": [], "experiment_name": "mine"}])
    assert tomli.loads(done.text)["experiments"][0]["experiment_name"] == "mine"
    assert any("campaign_name" in note and "is given already" in note for note in done.notes)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=6), min_size=1, max_size=3))
def test_anything_that_is_json_becomes_toml_with_all_its_words(tables: list[dict[str, Any]]) -> None:
    try:
        done = converted(tables)
    except AutoperfError:
        return
    found = tomli.loads(done.text)["experiments"]
    assert len(found) == len(tables)
    for table, ours in zip(tables, found, strict=True):
        name = table.get("experiment_name")
        if isinstance(name, str):
            assert ours["experiment_name"] == name
        if table.get("bw_rate"):
            assert "# bw_rate = " in done.text


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_words(data: bytes) -> None:
    try:
        convert(data, "old", ())
    except AutoperfError as error:
        assert error.message


ATOMS = ("1", "null", "true", "'a'", "-'a'", "b''", "1j", "1e999", "0x" + "f" * 4000, "{}", "[]", "*a", "f''")
LIKE = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(inner, max_size=2).map(lambda parts: f"{{{', '.join(parts)}}}")
        | st.tuples(inner, inner).map(lambda pair: f"{{{pair[0]}: {pair[1]}}}")
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(LIKE, st.sampled_from(["[{'a': %s}]", "[[campaigns]]\nname = %s", "%s"]))
def test_nothing_like_its_languages_ends_in_anything_but_words(value: str, around: str) -> None:
    try:
        convert((around % value).encode(), "old", ())
    except AutoperfError as error:
        assert error.message


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.toml"
    old.write_text(LATEST)
    assert main(["convert", str(old)]) == 0
    out, err = capsys.readouterr()
    new = tmp_path / "new.toml"
    new.write_text(out)
    assert err.count("autoperfctl: Slow network: ") == 6
    assert main(["check", str(new)]) == 0
    old.write_text(LISTED)
    assert main(["convert", str(old)]) == 1
    assert "what was converted has to be mended:" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nothing")]) == 1
    assert "No such file" in capsys.readouterr().err
