"""What the tools start: golden command lines, what is refused, who is started where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoperfd.core.plan import Plan, Setting
from autoperfd.tools import TOOLS
from autoperfd.tools.ddsperf import share
from autoperfd.tools.perftest import Perftest
from autoperfd.tools.perftest_left import num_iter
from tests.tools.support import PAIR, machine, planned

PERFTEST, DDSPERF = TOOLS["perftest"], TOOLS["ddsperf"]


def command(plan: Plan, name: str) -> str:
    return " ".join(next(p for p in plan.participants if p.name == name).argv)


GOLDEN_PERFTEST: list[tuple[dict[str, Setting | None], str, str]] = [
    (
        {},
        "~/bin/tool -pub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -pidMultiPubTest 0 -numSubscribers 1"
        " -executionTime 10 -batchSize 0 -numIter 20000000 -latencyCount 100 -outputFile pub_0.csv",
        "~/bin/tool -sub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -sidMultiSubTest 0 -numPublishers 1"
        " -outputFile sub_0.csv",
    ),
    (
        {"use_reliable": False, "use_multicast": True, "durability_level": 3, "pub_count": 2, "sub_count": 3},
        "~/bin/tool -pub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -durability 3 -bestEffort -multicast"
        " -pidMultiPubTest 0 -numSubscribers 3 -executionTime 10 -batchSize 0 -numIter 20000000"
        " -latencyCount 100 -outputFile pub_0.csv",
        "~/bin/tool -sub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -durability 3 -bestEffort -multicast"
        " -sidMultiSubTest 0 -numPublishers 2 -outputFile sub_0.csv",
    ),
    (
        {key: None for key in ("datalen_bytes", "use_reliable", "use_multicast", "latency_count")},
        "~/bin/tool -pub -domain 7 -transport UDPv4 -noXmlQos -pidMultiPubTest 0 -numSubscribers 1"
        " -executionTime 10 -batchSize 0 -numIter 20000000 -outputFile pub_0.csv",
        "~/bin/tool -sub -domain 7 -transport UDPv4 -noXmlQos -sidMultiSubTest 0 -numPublishers 1"
        " -outputFile sub_0.csv",
    ),
    (
        {"latency_test": True, "latency_count": None},
        "~/bin/tool -pub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -pidMultiPubTest 0 -numSubscribers 1"
        " -executionTime 10 -batchSize 0 -numIter 8000000 -latencyTest -outputFile pub_0.csv",
        "~/bin/tool -sub -domain 7 -transport UDPv4 -noXmlQos -dataLen 100 -sidMultiSubTest 0 -numPublishers 1"
        " -outputFile sub_0.csv",
    ),
]


@pytest.mark.parametrize(("changes", "publisher", "subscriber"), GOLDEN_PERFTEST)
def test_perftest_command_lines(changes: dict[str, Setting | None], publisher: str, subscriber: str) -> None:
    plan = planned(PERFTEST, **changes)
    assert command(plan, "pub_0") == publisher
    assert command(plan, "sub_0") == subscriber


def test_only_publisher_0_writes_data_and_ids_are_a_series() -> None:
    plan = planned(PERFTEST, pub_count=3, sub_count=2)
    pubs = [p for p in plan.participants if p.role == "pub"]
    assert [p.argv[p.argv.index("-pidMultiPubTest") + 1] for p in pubs] == ["0", "1", "2"]
    assert [p.files for p in pubs] == [("pub_0.csv",), (), ()]
    subs = [p for p in plan.participants if p.role == "sub"]
    assert [p.argv[p.argv.index("-sidMultiSubTest") + 1] for p in subs] == ["0", "1"]
    assert {p.machine for p in pubs} == {"p1"}
    assert {p.machine for p in subs} == {"p2"}


def test_versions_without_output_file_print_to_standard_output() -> None:
    plan = planned(PERFTEST, {"p1": "… -outputFormat …", "p2": "… -outputFile <path> …"}, pub_count=2)
    pub_0, pub_1, sub_0 = plan.participants
    assert ("-outputFile" in pub_0.argv, pub_0.stdout, pub_0.files) == (False, "pub_0.csv", ())
    assert (pub_1.stdout, pub_1.files) == ("pub_1.stdout", ())
    assert ("-outputFile" in sub_0.argv, sub_0.stdout, sub_0.files) == (True, "sub_0.stdout", ("sub_0.csv",))


@pytest.mark.parametrize("reliable", [True, False, None])
@pytest.mark.parametrize("publishers", [1, 2])
def test_only_best_effort_with_several_publishers_may_have_to_be_ended(reliable: bool | None, publishers: int) -> None:
    plan = planned(PERFTEST, use_reliable=reliable, pub_count=publishers)
    assert plan.end_subscribers_after_publishers == (reliable is False and publishers > 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"duration_secs": 600, "latency_count": 1000}, 1_200_000_000),
        ({"duration_secs": 600, "latency_count": 100}, 800_000_000),
        ({"duration_secs": 21_600}, 43_200_000_000),
        ({"duration_secs": 10, "latency_test": True}, 8_000_000),
    ],
)
def test_num_iter(settings: dict[str, Setting], expected: int) -> None:
    assert num_iter(settings) == expected


def test_a_num_iter_that_may_end_a_test_early_is_warned_about() -> None:
    perftest = Perftest()
    assert perftest.warnings({"duration_secs": 10, "latency_count": 100}) == []
    (warning,) = perftest.warnings({"duration_secs": 600, "latency_count": 100})
    assert "1333333 samples a second" in warning


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"duration_secs": 9}, "9 s give 7 rows"),
        ({"use_reliable": False, "pub_count": 2}, "may never end by themselves"),
        ({"datalen_bytes": 65_471}, "above 65470 bytes"),
    ],
)
def test_known_traps_are_warned_about(settings: dict[str, Setting], said: str) -> None:
    usual: dict[str, Setting] = {
        "duration_secs": 10,
        "latency_count": 100,
        "pub_count": 1,
        "use_reliable": False,
        "datalen_bytes": 65_470,
    }
    assert Perftest().warnings(usual) == []
    (warning,) = Perftest().warnings({**usual, **settings})
    assert said in warning


def test_a_latency_test_has_one_publisher_and_answers_every_sample() -> None:
    for each in TOOLS.values():
        base: dict[str, Setting] = {"duration_secs": 10, "pub_count": 2, "sub_count": 1}
        assert each.problems(base) == []
        assert [key for key, _ in each.problems({**base, "latency_test": True})] == ["pub_count"]
        both = each.problems({**base, "latency_test": True, "latency_count": 100})
        assert [key for key, _ in both] == ["pub_count", "latency_count"]
        assert each.problems({**base, "pub_count": 1, "latency_test": True, "latency_count": 1}) == []


def test_what_the_tools_take() -> None:
    length = PERFTEST.allowed("datalen_bytes")
    assert length is not None
    assert (length.low, length.high, length.holes[0][:2]) == (28, 2_147_482_620, (1262, 1264))
    duration = PERFTEST.allowed("duration_secs")
    assert duration is not None and duration.low == 3
    durability = DDSPERF.allowed("durability_level")
    assert durability is not None and durability.never
    for tool in TOOLS.values():
        assert tool.allowed("no_such_setting") is None
        assert tool.probe_argv


GOLDEN_DDSPERF: list[tuple[dict[str, Setting | None], str, str]] = [
    (
        {},
        "~/bin/tool -D 10 -i 7 -Q minmatch:1 -Q initwait:30 pub size 100 1%",
        "~/bin/tool -D 13 -i 7 -Q minmatch:1 -Q initwait:30 sub",
    ),
    (
        {"use_reliable": False, "pub_count": 3, "sub_count": 2, "latency_count": None, "datalen_bytes": None},
        "~/bin/tool -D 10 -i 7 -Q minmatch:4 -Q initwait:30 -u pub",
        "~/bin/tool -D 13 -i 7 -Q minmatch:4 -Q initwait:30 -u sub",
    ),
    (
        {"latency_test": True, "sub_count": 2, "latency_count": None},
        "~/bin/tool -D 10 -i 7 -Q minmatch:2 -Q initwait:30 ping size 100",
        "~/bin/tool -D 13 -i 7 -Q minmatch:2 -Q initwait:30 pong",
    ),
]


@pytest.mark.parametrize(("changes", "publisher", "subscriber"), GOLDEN_DDSPERF)
def test_ddsperf_command_lines(changes: dict[str, Setting | None], publisher: str, subscriber: str) -> None:
    plan = planned(DDSPERF, **changes)
    assert command(plan, "pub_0") == publisher
    assert command(plan, "sub_0") == subscriber


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "100%"), (3, "33.333333333%"), (100, "1%"), (1000, "0.1%"), (10_000_000, "0.00001%")],
)
def test_ddsperf_share_is_never_a_power_of_ten(count: int, expected: str) -> None:
    assert share(count) == expected


def test_ddsperf_multicast_is_cyclone_configuration() -> None:
    machines = [
        replace(PAIR[0], environment=(("A", "1"), ("CYCLONEDDS_URI", "file:///c.xml"))),
        machine("p2", "sub", 'x"<&'),
    ]

    def uri(use_multicast: bool | None, name: str, publishers: int = 1) -> str | None:
        settings: dict[str, Setting] = {"duration_secs": 4, "pub_count": publishers, "sub_count": 1}
        if use_multicast is not None:
            settings["use_multicast"] = use_multicast
        plan = DDSPERF.plan("T", settings, machines, 7, {})
        return dict(next(p for p in plan.participants if p.name == name).environment).get("CYCLONEDDS_URI")

    assert uri(None, "sub_0") is None
    assert uri(None, "pub_0") == "file:///c.xml"
    assert uri(True, "sub_0") == (
        '<CycloneDDS><Domain Id="any"><General><AllowMulticast>true</AllowMulticast></General></Domain></CycloneDDS>'
    )
    unicast = uri(False, "pub_0")
    assert unicast is not None and unicast.startswith("file:///c.xml,<CycloneDDS>")
    assert "<AllowMulticast>false<" in unicast
    assert """<Peer Address="10.0.0.1"/><Peer Address='x"&lt;&amp;'/>""" in unicast
    many = uri(False, "sub_0", publishers=50)
    assert many is not None and "<MaxAutoParticipantIndex>54<" in many


def test_plans_survive_being_stored() -> None:
    for tool in TOOLS.values():
        plan = planned(tool, pub_count=2, sub_count=2)
        assert Plan.from_json(plan.to_json()) == plan
