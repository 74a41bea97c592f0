"""`autoperfd.toml`: the shipped file says what holds, and every problem is named at once."""

from __future__ import annotations

import re
import traceback
from dataclasses import fields
from pathlib import Path

import pytest

from autoperfd.core.config import read_experiments
from autoperfd.core.guards import Guards
from autoperfd.core.settings import TABLES, DaemonSettings, PowerSwitch, read_settings, render
from autoperfd.errors import ConfigError
from autoperfd.tools import TOOLS

SHIPPED = Path(__file__).parents[2] / "etc" / "autoperfd.toml"


def read(text: str) -> DaemonSettings:
    return read_settings(text.encode(), "autoperfd.toml")


def test_the_shipped_file_is_the_rows() -> None:
    assert SHIPPED.read_text() == render(), "write the result of render() to etc/autoperfd.toml"


def test_an_empty_file_and_the_shipped_one_are_the_defaults() -> None:
    assert read("") == read(render()) == DaemonSettings()


def test_the_lines_that_are_commented_out_are_the_defaults() -> None:
    before_power, _, power = render().partition("# Power switches")
    lines = re.sub(r"^#(?=\w+ = )", "", before_power, flags=re.MULTILINE)
    assert lines.count("\n#") == lines.count("\n# ")
    assert read(lines) == DaemonSettings()
    switches = read(
        re.sub(r"^#(?=[\w\[])", "", power.partition("\n#")[1] + power.partition("\n#")[2], flags=re.M)
    ).power
    assert switches["plug-p1"] == PowerSwitch("plug-p1", command=("/usr/local/bin/plug", "cycle", "p1"))
    assert switches["plug-p2"].url.startswith("http://192.0.2.7/")


def test_every_row_has_its_field() -> None:
    rows = sum(len(rows) for name, (_, rows) in TABLES.items() if name != "guards")
    assert rows + 3 == len(fields(DaemonSettings))  # guards and power switches are one field each; and the instance
    assert [row.key for row in TABLES["guards"][1]] == [field.name for field in fields(Guards)]


def test_values_are_taken() -> None:
    settings = read(
        """
        [paths]
        state = "/srv/lab"
        [machines]
        backoff_first_secs = 0.05
        ping = "auto"
        auto_resume = false
        [domains]
        first = 10
        last = 20
        [webhook]
        url = "https://example.org/hook?x=1"
        on = ["halt", "finish"]
        [queue]
        settle_secs = 0.1
        [power.p]
        url = "http://192.0.2.1/off"
        method = "GET"
        expect = 204
        """
    )
    assert settings.state == Path("/srv/lab")
    assert (settings.backoff_first_secs, settings.ping, settings.auto_resume) == (0.05, "auto", False)
    assert (settings.domain_first, settings.domain_last) == (10, 20)
    assert settings.webhook_on == ("halt", "finish")
    assert settings.settle_secs == 0.1
    assert settings.power == {"p": PowerSwitch("p", url="http://192.0.2.1/off", method="GET", expect=204)}


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[path]\n", 1, "path", "did you mean 'paths'"),
        ("settle_secs = 1\n", 1, "settle_secs", "it belongs in [queue]"),
        ('[paths]\nstate = "state"\n', 2, "paths.state", "an absolute path"),
        ("[machines]\nping = true\n", 2, "machines.ping", '"icmp"'),
        ("[machines]\nstop_secs = nan\n", 2, "machines.stop_secs", "found nan"),
        (f"[machines]\nstop_secs = {'9' * 400}\n", 2, "machines.stop_secs", "found a number of 1329 bits"),
        ("[machines]\nstop_secs = inf\n", 2, "machines.stop_secs", "found inf"),
        ("[machines]\nstop_secs = true\n", 2, "machines.stop_secs", "found true"),
        ("[machines]\nmax_file_mb = 1.5\n", 2, "machines.max_file_mb", "a whole number"),
        ("[machines]\nbackoff_first_secs = 400\n", 1, "machines.backoff_cap_secs", "at least backoff_first_secs"),
        ("[domains]\nfirst = 9\nlast = 3\n", 3, "domains.last", "at least first, 9"),
        ("[domains]\nlast = 201\n", 2, "domains.last", "1 to 200"),
        ('[webhook]\nurl = "ftp://x"\n', 2, "webhook.url", "http or https"),
        ('[webhook]\nurl = "https://u:p@x/"\n', 2, "webhook.url", "http or https"),
        ('[webhook]\nurl = "http://x/"\n', 2, "webhook.url", "allow_http = true"),
        ('[webhook]\non = ["halts"]\n', 2, "webhook.on", 'did you mean "halt"'),
        ("[queue]\nrescan_secs = 0\n", 2, "queue.rescan_secs", "0.05 to 3600"),
        ("[power.p]\n", 1, "power.p", "either command or url"),
        ('[power.p]\ncommand = "reboot"\n', 2, "power.p.command", "a list of strings"),
        ('[power.p]\ncommand = ["plug"]\n', 2, "power.p.command", "absolute path"),
        ('[power.p]\nurl = "http://x"\ncommand = ["/x"]\n', 1, "power.p", "either command or url"),
        ('[power."a b"]\ncommand = ["/x"]\n', 1, "power.a b", "a name of letters"),
        ("power = 3\n", 1, "power", "tables [power.<name>]"),
        ("queue = 3\n", 1, "queue", "a table"),
    ],
)
def test_problems(text: str, line: int, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (line, key)
    assert words in str(problem)


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read('[paths]\nstate = 1\nqueu = "/x"\n[machines]\nping = "x"\n[power.p]\nexpect = 1\n')
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["paths.state", "paths.queu", "machines.ping", "power.p", "power.p.expect"]


@pytest.mark.parametrize("listen", ["", "127.0.0.1:8765", "127.9.9.9:1", "[::1]:65535", "/run/autoperf/page.sock"])
def test_a_page_for_this_computer(listen: str) -> None:
    assert read(f'[page]\nlisten = "{listen}"\nhosts = ["Bench.example"]').page_listen == listen
    assert read('[page]\nhosts = ["Bench.example"]').page_hosts == ("bench.example",)


@pytest.mark.parametrize(
    "listen",
    [
        *("0.0.0.0:8765", "192.0.2.1:8765", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.256:80"),
        *("[::]:8765", ":8765", "localhost:8765", "page.sock", "/" + "x" * 107),
    ],
)
def test_a_page_for_others_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"page\.listen.*a loopback address and port such as"):
        read(f'[page]\nlisten = "{listen}"')


@pytest.mark.parametrize("hosts", ['"a"', '["a b"]', '[""]', "[1]", str(["a"] * 21)])
def test_hosts_of_a_page_are_names(hosts: str) -> None:
    with pytest.raises(ConfigError, match=r"page\.hosts"):
        read(f"[page]\nhosts = {hosts}")


TOKEN = "T0K3Nsecret"
URL = f"https://hooks.example/services/{TOKEN}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'[webhook]\nurl = "http://hooks.example/{TOKEN}"', "http://hooks.example/..."),
        (f'[webhook]\nurl = "http://hooks.example:8080?{TOKEN}"', "http://hooks.example:8080/..."),
        (f'[webhook]\nurl = "ftp://hooks.example/{TOKEN}"', "a string (not shown)"),
        (f'[webhook]\nurl = "hooks.example/{TOKEN}"', "a string (not shown)"),
        (f'[webhook]\nurl = " {URL}"', "a string (not shown)"),
        (f'[webhook]\nurl = "https://hooks.example/a b/{TOKEN}"', "https://hooks.example/..."),
        (f'[webhook]\nurl = "https://a {TOKEN}/"', "https://..."),
        (f'[webhook]\nurl = "https://me:{TOKEN}@hooks.example/"', "https://..."),
        (f'[webhook]\nurl = "https://me:{TOKEN}/x@hooks.example/ "', "https://..."),
        (f'[webhook]\nurl = "HTTPS://hooks.example/{TOKEN}"', "HTTPS://hooks.example/..."),
        (f'[webhook]\nurl = "{URL}\\u0007"', "https://hooks.example/..."),
        (f'[webhook]\nurl = ["{URL}"]', "a list (not shown)"),
        (f'[webhook]\nurl = {{ to = "{URL}" }}', "a table (not shown)"),
        ("[webhook]\nurl = 7", "a number (not shown)"),
        (f'[webhook]\nurl_credential = "{URL}"', "https://hooks.example/..."),
        (f'[webhook]\nsecret_credential = "{TOKEN} {TOKEN}"', "a string (not shown)"),
        (f'[webhook]\non = "{URL}"', "https://hooks.example/..."),
        (f'[webhook]\non = ["{URL}"]', "https://hooks.example/..."),
        (f'[webhook]\n"{URL}" = 1', "webhook.https://hooks.example/..."),
        (f'webhook = "{URL}"', "https://hooks.example/..."),
        (f'[power]\nurl = "{URL}"', "https://hooks.example/..."),
        (f'power = "{TOKEN}"', "a string (not shown)"),
        (f'[power]\np1 = ["{TOKEN}"]', "a list (not shown)"),
        (f'[power.p]\nurl = "http://me:{TOKEN}@plug.example/"', "http://..."),
        (f'[power.p]\nurl = "http://plug.example/ {TOKEN}"', "http://plug.example/..."),
        (f'[power.p]\nurl = "http://plug.example/"\nbody = ["{TOKEN}"]', "a list (not shown)"),
        (f'[power.p]\nurl = "http://plug.example/"\nbody = "{TOKEN}\\n"', "a string (not shown)"),
        (f'[power.p]\ncommand = "/plug {TOKEN}"', "a string (not shown)"),
        (f'[power.p]\ncommand = ["plug", "{TOKEN}"]', "a list (not shown)"),
        # no TOML at all: what the parser says of it
        (f"[webhook]\nurl = {URL}", ":2: text"),
        (f'[webhook]\nurl = "{URL}', ":2: text"),
        (f'[webhook] url = "{URL}"', ":1: text"),
        (f'[webhook]\nurl "{URL}"', ":2: text"),
        (f"[webhook]\n{URL}", ":2: text"),
        (f"[webhook]\nurl = {TOKEN}", ":2: text"),
        (f'[webhook]\nurl = "{URL}" {TOKEN}', ":2: text"),
        (f'[webhook]\nurl = "{URL}\\q"', ":2: text"),
        (f'[webhook]\nurl = "{URL}"\nurl = "{URL}"', ":3: text"),
        (f'[webhook]\nurl = "{URL}\u200b"', ":2: text"),
    ],
)
def test_no_secret_stands_in_a_problem(text: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.problems)
    assert shown in str(caught.value)
    assert TOKEN not in told
    assert TOKEN.lower() not in told


def test_a_secret_that_is_no_utf_8_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="byte 0xff") as caught:
        read_settings(f'[webhook]\nurl = "{URL}'.encode() + b'\xff"\n', "autoperfd.toml")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_no_secret_stands_in_the_repr_of_settings() -> None:
    settings = read(
        f"""
        [webhook]
        url = "{URL}"
        secret_credential = "{TOKEN}"
        [heartbeat]
        url = "{URL}"
        url_credential = "{TOKEN}"
        [power.p]
        url = "http://192.0.2.1/{TOKEN}"
        body = "{TOKEN}"
        [power.q]
        command = ["/plug", "{TOKEN}"]
        """
    )
    assert settings.webhook_url == settings.heartbeat_url == URL
    assert settings.power["q"].command[1] == settings.power["p"].body == TOKEN
    assert TOKEN not in repr(settings) + str(settings.power)


def test_an_address_in_an_experiment_file_is_shown_by_its_host_alone() -> None:
    with pytest.raises(ConfigError) as caught:
        read_experiments(f'[[experiments]]\nexperiment_name = 3\norder = "{URL}"\n'.encode(), "a.toml", TOOLS, ())
    assert "https://hooks.example/..." in str(caught.value)
    assert TOKEN not in str(caught.value)
