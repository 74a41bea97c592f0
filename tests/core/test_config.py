"""Experiment files that are fine: what they come to, and the exact meaning of lists, ranges and the third way."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperfd.core.config import Experiment, Policy, continued, read_document, read_experiments, why_another
from autoperfd.core.plan import Machine
from autoperfd.core.tables import decode
from autoperfd.core.text import safe_lines
from autoperfd.errors import ConfigError
from autoperfd.tools import TOOLS
from tests.bounds import at_most
from tests.faults import Fired

EXAMPLES = sorted((Path(__file__).parents[2] / "etc" / "queue-examples").glob("*.toml"))

FILE = """
[[experiments]]
experiment_name = "NAME"
combination_generation_type = "pcg"
{top}

[experiments.qos_settings]
duration_secs = [30]
pub_count = [1]
sub_count = [1]
{qos}

[[experiments.slave_machines]]
machine_name = "p1"
participant_allocation = "all"
ip = "192.0.2.1"
username = "pi"
ssh_key_path = "~/.ssh/id"
perftest_exec_path = "~/perftest_cpp"
{machine}
"""

# The design's example, with the second machine that it leaves to the reader.
SPECIFICATION = """
[[experiments]]
experiment_name = "PCG #1"
combination_generation_type = "pcg"      # or "rcg"
resuming_test_name = ""                  # start at this test
tool = "perftest"                        # or "ddsperf"
buffer_secs = 60
retries = 2
halt_after_consecutive_failures = 10
reboot = "experiment"
order = "listed"                         # or "shuffled" (seeded)
rcg_test_count = 500                     # RCG only
seed = 7

[experiments.qos_settings]
duration_secs    = [30]
datalen_bytes    = [100]
pub_count        = [1, 50, 100]
sub_count        = [1, 50, 100]
use_reliable     = [true, false]
use_multicast    = [true, false]
durability_level = []
latency_count    = [100]

[[experiments.slave_machines]]
machine_name = "p1"
participant_allocation = "pub"           # "pub", "sub" or "all"
ip = "169.254.248.55"                    # or a host name
port = 22
username = "pi"
ssh_key_path = "~/.ssh/id_rsa"
perftest_exec_path = "~/rtiperftest/bin/armv7Linux/release/perftest_cpp"   # the tool's executable
environment = { LD_LIBRARY_PATH = "/opt/rti/lib" }                         # optional
power_cycle = "plug-p1"

[[experiments.slave_machines]]
machine_name = "p2"
participant_allocation = "sub"
ip = "p2.local"
username = "pi"
ssh_key_path = "~/.ssh/id_rsa"
perftest_exec_path = "~/rtiperftest/bin/armv7Linux/release/perftest_cpp"
"""


def read(text: str, power: tuple[str, ...] = ("plug-p1",)) -> tuple[Experiment, ...]:
    return read_experiments(text.encode(), "file.toml", TOOLS, power)


def one(top: str = "", qos: str = "", machine: str = "", **replaced: str) -> Experiment:
    """The experiment of FILE with lines added, and lines of keys replaced."""
    text = FILE.format(top=top, qos=qos, machine=machine)
    for key, value in replaced.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}")
    (experiment,) = read(text)
    return experiment


def plain(words: str) -> bool:
    """Whether a terminal shows it as one line and obeys nothing in it."""
    return safe_lines(words) == words and "\n" not in words


def values(experiment: Experiment, key: str) -> list[Any]:
    space: Any = experiment.sweep.space
    (axis,) = (axis for axis in space.axes if axis.key == key)
    return [axis.values.at(i) for i in range(axis.values.count)]


# ---------------------------------------------------------------- examples


def test_the_specification_as_pcg() -> None:
    (experiment,) = read(SPECIFICATION)
    sweep = experiment.sweep
    assert (experiment.name, experiment.folder, experiment.tool) == ("PCG #1", "PCG_1", "perftest")
    assert sweep.count == 36 and not sweep.shuffled and experiment.seed is None
    assert sweep.name_at(0) == "30SEC_100B_1PUB_1SUB_REL_MC_100LC"
    assert sweep.name_at(35) == "30SEC_100B_100PUB_100SUB_BE_UC_100LC"
    assert experiment.policy == Policy()
    assert len(experiment.warnings) == 2  # of seed and rcg_test_count, which PCG has no use for
    assert experiment.machines[0] == Machine(
        name="p1",
        allocation="pub",
        ip="169.254.248.55",
        port=22,
        username="pi",
        ssh_key_path="~/.ssh/id_rsa",
        exec_path="~/rtiperftest/bin/armv7Linux/release/perftest_cpp",
        environment=(("LD_LIBRARY_PATH", "/opt/rti/lib"),),
        power_cycle="plug-p1",
    )


def test_the_specification_as_rcg() -> None:
    (experiment,) = read(SPECIFICATION.replace("pcg", "rcg").replace("PCG", "RCG"))
    sweep = experiment.sweep
    assert sweep.shuffled and (experiment.seed, sweep.seed, sweep.limit) == (7, 7, 500)
    assert sweep.count == 36  # three values are a choice, and 36 is all there is
    names = {sweep.name_at(i) for i in range(36)}
    assert len(names) == 36
    assert experiment.warnings == ()


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_shipped_examples_are_fine(file: Path) -> None:
    experiments = read_experiments(file.read_bytes(), file.name, TOOLS, [])
    assert experiments and all(experiment.sweep.count for experiment in experiments)


def test_there_are_examples() -> None:
    assert {file.stem for file in EXAMPLES} >= {"pcg", "rcg", "ddsperf"}


@pytest.mark.fault("Q4")
def test_byte_order_mark_and_windows_line_ends(fired: Fired) -> None:
    data = b"\xef\xbb\xbf" + SPECIFICATION.replace("\n", "\r\n").encode()
    (experiment,) = read_experiments(data, "file.toml", TOOLS, ["plug-p1"])
    assert experiment.name == "PCG #1"
    fired("Q4", "read as if they were not there")


# ---------------------------------------------------------------- the meaning of values


@pytest.mark.parametrize(
    ("generation", "found", "got"),
    [
        ("pcg", "[5, 1]", [5, 1]),
        ("pcg", "[1, 3]", [1, 3]),
        ("pcg", "{ min = 1, max = 3 }", [1, 2, 3]),
        ("pcg", "[7]", [7]),
        ("rcg", "[1, 3]", [1, 2, 3]),
        ("rcg", "[30, 30]", [30]),
        ("rcg", "[3, 1, 2]", [3, 1, 2]),
        ("rcg", "[7]", [7]),
        ("rcg", "{ min = 2, max = 4 }", [2, 3, 4]),
    ],
)
def test_lists_and_ranges(generation: str, found: str, got: list[int]) -> None:
    experiment = one(combination_generation_type=f'"{generation}"', pub_count=found)
    assert values(experiment, "pub_count") == got


def test_two_booleans_are_a_choice_in_rcg() -> None:
    assert values(one(qos="use_reliable = [true, false]", combination_generation_type='"rcg"'), "use_reliable") == [
        True,
        False,
    ]


def test_an_empty_list_has_no_part_in_the_name() -> None:
    experiment = one(qos="durability_level = []\nuse_multicast = []")
    assert experiment.sweep.name_at(0) == "30SEC_1PUB_1SUB"
    assert experiment.identity == one().identity


def test_rcg_leaves_out_what_the_tool_cannot_take() -> None:
    experiment = one(qos="datalen_bytes = [1, 2000]", combination_generation_type='"rcg"')
    got = values(experiment, "datalen_bytes")
    assert got == [n for n in range(28, 2001) if not 1262 <= n <= 1264]
    assert len(experiment.warnings) == 1 and "1262 to 1264" in experiment.warnings[0]


def test_keys_turn_in_the_order_of_the_file() -> None:
    experiment = one(qos="use_reliable = [true, false]\nlatency_count = [10, 20]", sub_count="[1, 2]")
    names = [experiment.sweep.name_at(i) for i in range(4)]
    assert names == [
        "30SEC_1PUB_1SUB_REL_10LC",
        "30SEC_1PUB_1SUB_REL_20LC",
        "30SEC_1PUB_1SUB_BE_10LC",
        "30SEC_1PUB_1SUB_BE_20LC",
    ]


def test_shuffled_pcg_draws_each_once() -> None:
    experiment = one(top='order = "shuffled"\nseed = 3', pub_count="{ min = 1, max = 50 }")
    names = [experiment.sweep.name_at(i) for i in range(50)]
    assert len(set(names)) == 50 and names[0] != "30SEC_1PUB_1SUB"


def test_without_a_seed_one_is_to_be_chosen() -> None:
    experiment = one(combination_generation_type='"rcg"', pub_count="[1, 9]")
    assert experiment.seed is None and experiment.sweep.shuffled and experiment.sweep.count == 9
    assert experiment.sweep.seeded(4).name_at(0)


def listed(names: list[str], top: str = "") -> Experiment:
    text = FILE[: FILE.index("[experiments.qos")] + FILE[FILE.index("[[experiments.slave") :]
    text = text.replace('combination_generation_type = "pcg"\n', "")
    (experiment,) = read(text.format(top=f"tests = {json.dumps(names)}\n{top}", machine=""))
    return experiment


def test_the_third_way() -> None:
    experiment = listed(["600s_100B_5P_1S_be_mc_0dur_100lc", "600SEC_100B_1PUB_1SUB_BE_MC_0DUR_100LC"])
    assert experiment.generation == "listed" and experiment.sweep.count == 2
    assert experiment.sweep.name_at(0) == "600SEC_100B_5PUB_1SUB_BE_MC_0DUR_100LC"


def test_a_long_list_of_tests() -> None:
    names = [f"600SEC_{28 + n}B_5PUB_1SUB_BE_MC_0DUR_100LC" for n in range(1200)]
    with at_most(500 * len(names)):
        assert listed(names).sweep.count == 1200


def test_resuming_in_any_spelling() -> None:
    experiment = one(top='resuming_test_name = "30s_3P_1S"', pub_count="[1, 2, 3]")
    assert experiment.sweep.index_of(experiment.policy.resuming_test_name) == 2


def test_resuming_a_seeded_rcg_beyond_its_limit_is_refused() -> None:
    top = 'rcg_test_count = 5\nseed = 1\nresuming_test_name = "{}"'
    kwargs = {"combination_generation_type": '"rcg"', "pub_count": "[1, 100]"}
    sweep = one(top="rcg_test_count = 5\nseed = 1", **kwargs).sweep
    inside = {sweep.name_at(i) for i in range(5)}
    outside = next(f"30SEC_{n}PUB_1SUB" for n in range(1, 101) if f"30SEC_{n}PUB_1SUB" not in inside)
    assert one(top=top.format(sweep.name_at(4)), **kwargs)
    with pytest.raises(ConfigError, match="resuming_test_name"):
        one(top=top.format(outside), **kwargs)


@pytest.mark.parametrize("ip", ["192.0.2.7", "pi-4.local", "pi4", "fe80::1%eth0", "::1", "a.b-c.example.", "2pi"])
def test_addresses(ip: str) -> None:
    assert one(ip=f'"{ip}"').machines[0].ip == ip


@pytest.mark.parametrize("name", ["PCG #1", "TCP/UDP", "Größe 3", "a", "n" * 128, "#1"])
def test_experiment_names(name: str) -> None:
    assert one(experiment_name=f'"{name}"').name == name


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("generation", ["pcg", "rcg"])
def test_a_million_million_combinations_cost_nothing(generation: str) -> None:
    with at_most(50_000):
        experiment = one(
            qos="datalen_bytes = { min = 2000, max = 2999 }\nlatency_count = { min = 1, max = 1000 }",
            combination_generation_type=f'"{generation}"',
            pub_count="{ min = 1, max = 1000 }",
            sub_count="{ min = 1, max = 1000 }",
        )
        assert experiment.sweep.count == 10**12
        sweep = experiment.sweep.seeded(1)
        assert sweep.index_of(sweep.name_at(10**11)) == 10**11


def test_combinations_the_tool_refuses_are_found_in_a_huge_space() -> None:
    with pytest.raises(ConfigError, match="and others"):
        one(
            qos="latency_test = [true, false]\ndatalen_bytes = { min = 2000, max = 2000000 }",
            sub_count="{ min = 1, max = 1000 }",
            pub_count="{ min = 1, max = 1000 }",
        )


def test_a_file_of_nothing_but_mistakes_is_cut_short() -> None:
    text = "".join(f"key{n} = 1\n" for n in range(5000))
    with at_most(50 * 5000), pytest.raises(ConfigError) as caught:
        read(text)
    assert len(caught.value.problems) == 201 and "further problems" in str(caught.value.problems[-1])


# ---------------------------------------------------------------- dropped again


def test_the_same_space_in_another_order_is_the_same_experiment() -> None:
    first = one(qos="use_reliable = [true, false]", pub_count="[1, 2]")
    now = one(top="retries = 5", qos="use_reliable = [false, true]", pub_count="[2, 1]")
    assert why_another(first, now) == ""
    both = continued(first, now)
    assert both.policy.retries == 5
    assert both.sweep.name_at(0) == "30SEC_1PUB_1SUB_REL"


def test_another_space_or_another_tool_is_another_experiment() -> None:
    first = one()
    assert "other values" in why_another(first, one(pub_count="[2]"))
    assert why_another(first, one(top='tool = "ddsperf"'))


def test_addresses_may_change_but_machines_and_roles_may_not() -> None:
    first = one()
    moved = one(ip='"192.0.2.9"', machine="port = 2222")
    assert why_another(first, moved) == ""
    assert continued(first, moved).machines[0].ip == "192.0.2.9"
    assert "p2" in why_another(first, one(machine_name='"p2"'))


def test_order_and_seed_of_the_first_acceptance_are_kept() -> None:
    first = one(top="seed = 1\nrcg_test_count = 5", combination_generation_type='"rcg"', pub_count="[1, 100]")
    now = one(top="seed = 2\nrcg_test_count = 9", combination_generation_type='"rcg"', pub_count="[1, 100]")
    both = continued(first, now)
    assert (both.seed, both.sweep.seed, both.sweep.count) == (1, 1, 9)


def test_what_was_accepted_is_read_again_without_its_surroundings() -> None:
    """A power switch that was removed must not keep the daemon from starting."""
    table = tomllib.loads(SPECIFICATION)["experiments"][0]
    document = {"experiments": [json.loads(json.dumps(table))]}
    with pytest.raises(ConfigError, match="power switch"):
        read_document(document, "", "memory", TOOLS, [])
    (experiment,) = read_document(document, "", "memory", TOOLS, [], accepted=True)
    assert experiment == read(SPECIFICATION)[0]


# ---------------------------------------------------------------- anything else


HUGE = 1 << 12_000  # more than a float holds
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([HUGE, -HUGE]) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
TABLE = tomllib.loads(SPECIFICATION)["experiments"][0]


@given(st.sampled_from(sorted(TABLE)), json_like)
def test_no_value_of_any_key_does_more_than_be_refused(key: str, value: Any) -> None:
    try:
        read_document({"experiments": [{**TABLE, key: value}]}, "", "f", TOOLS, ["plug-p1"])
    except ConfigError as error:
        assert all(plain(str(problem)) for problem in error.problems)


@given(st.sampled_from(sorted(TABLE["qos_settings"])), json_like)
def test_no_value_of_a_setting_does_more_than_be_refused(key: str, value: Any) -> None:
    table = {**TABLE, "qos_settings": {**TABLE["qos_settings"], key: value}}
    try:
        (experiment,) = read_document({"experiments": [table]}, "", "f", TOOLS, ["plug-p1"])
    except ConfigError as error:
        assert all(plain(str(problem)) for problem in error.problems)
    else:
        assert experiment.sweep.index_of(experiment.sweep.name_at(0)) == 0


@given(st.sampled_from(sorted(TABLE["slave_machines"][0])), json_like)
def test_no_value_of_a_machine_does_more_than_be_refused(key: str, value: Any) -> None:
    machines = [{**TABLE["slave_machines"][0], key: value}, TABLE["slave_machines"][1]]
    try:
        read_document({"experiments": [{**TABLE, "slave_machines": machines}]}, "", "f", TOOLS, ["plug-p1"])
    except ConfigError as error:
        assert all(plain(str(problem)) for problem in error.problems)


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        decode(data, "f")
    except ConfigError as error:
        assert len(error.problems) == 1


def test_a_switch_that_will_not_be_used_is_told() -> None:
    switch = 'power_cycle = "plug-p1"'
    assert [w for w in one(machine=switch).warnings if "power_cycle" in w] == []
    (warning,) = (w for w in one('reboot = "never"', machine=switch).warnings if "power_cycle" in w)
    assert "not used" in warning


@pytest.mark.parametrize(
    ("top", "qos"),
    [
        (f"retries = 0x{'f' * 5000}", ""),
        (f"seed = 0b{'1' * 20_000}", ""),
        ("", f"latency_count = 0x{'f' * 5000}"),
        ("", f"latency_count = {{ min = 1, max = 0x{'f' * 5000} }}"),
        ("", f"latency_count = {{ min = 0x{'f' * 5000}, max = 1 }}"),
    ],
)
def test_a_number_of_thousands_of_digits_is_words(top: str, qos: str) -> None:
    """Python refuses to write such a one in decimal digits, and TOML may say it in others."""
    with pytest.raises(ConfigError) as caught:
        read_experiments(FILE.format(top=top, qos=qos, machine="").encode(), "x.toml", TOOLS, ())
    assert "a number of 20000 bits" in caught.value.message
