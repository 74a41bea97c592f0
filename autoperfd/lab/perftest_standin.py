#!/usr/bin/env -S python3 -I -S
"""A stand-in for RTI Perftest (it is not Perftest): same options, output and failures, real UDP; one thread.

Copied to a machine as `perftest_cpp` it needs nothing but Python 3.9. What a driver can tell apart is meant to be
the same: option grammar and error texts, the life of publishers and subscribers, who writes which file, stdio
buffering in blocks of 4096 bytes, the layouts of each version, exit statuses, standard error. The first line of
standard error says what it is, and which of the settings below bend it.

Environment
  STANDIN_VERSION     3.1 … 4.3 (default 4.1.1). Before 4.0 there is no -outputFile.
  STANDIN_FAST        "1": short discovery polls and tear-down, a lease of 10 s. Seconds of data stay seconds.
  STANDIN_RATE        samples a second and publisher, at most (default 2000; large tests get less by themselves)
  STANDIN_LEASE       seconds until a silent peer is given up (default 100)
  STANDIN_NET         any word: participants with different words do not see each other
  STANDIN_NIC         as -nic, for participants without -nic: address or name of the only interface to use
  STANDIN_PEERS       addresses to announce to by unicast as well (comma separated), where multicast is no way
  STANDIN_NANO        "1": a build with the nanosecond clock
  STANDIN_MISBEHAVE   see below; "@FILE" reads it from a file (none, if the file is missing)

Discovery is by multicast on every interface, loopback included: group 239.255.<domain>.77, UDP port 17400; data
is sent to UDP ports 10000 + 88 x domain and the next 87 (then any port), or with -multicast to 239.255.1.1.

Misbehaviour: SELECTOR:KIND[=ARG][#TEXT][@FILE][,KIND…][;SELECTOR:…]
  SELECTOR  pub_0, sub_1, pub, sub, * (any of these) or help (a start with -help); with /option=value or /option
            only where that option has that value: sub_0/dataLen=100, */bestEffort
  #TEXT     only if the command line contains TEXT
  @FILE     once: only if FILE does not exist; it is created (so a test fails once and its retry is well)
  KIND      when it starts
    wont-start=loader|licence   the loader's complaint and 127; a licence text and 255
    option-error                a complaint about an option, 255
    exit=N                      exit status N at once
    crash-at-start=SIGNAL       ends by that signal at once
    slow-start=SECS             waits before discovery
    no-match                    asks for the opposite reliability, so nothing matches
    ignore-term                 ignores SIGTERM
    orphan=SECS                 leaves a process of its own session behind for so long (default 300)
    flood=MB, flood-stdout=MB   that much text on standard error / output
    noise                       the middleware's log lines between the rows on standard output
            one second after the first sample
    crash=SIGNAL                ends by that signal (default 11; 19 stops it)
    early-exit                  exit 0 with nothing in the file
            at any point
    hang=start|data|end         stops doing anything: before discovery, amid the data, after the end (default end)
    hang-after-data             a subscriber never sees the end: rows of rate 0 for ever
    no-pongs                    a subscriber answers no ping
            what is left in the file
    no-file, empty, header-only, truncated, no-summary, appended, garbage, huge=MB
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

# ---------------------------------------------------------------------------------------------- options

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
U64_MAX = 2**64 - 1
LARGEST_SAMPLE = 2147482620
BOUNDED_SAMPLE = 65470  # larger samples are of another type
OVERHEAD = 28

# Name and value | kind, as sscanf reads it (?: the value may be left out), range or words, and:
# key= where the order of search is not by name, since= and before= versions, hidden from -help | what -help says.
TABLE = """
GENERAL
asynchronous | flag | Use asynchronous writer
bestEffort | flag | Run test in best effort mode. Default: reliable
cacheStats | flag | Display the cache statistics
compressionId <id> | str since=3.2 | Compression algorithms
compressionLevel <level> | d 0 10 since=3.2 | Compression level
compressionThreshold <bytes> | d 0 INT since=3.2 | Compress from this size on
cpu | flag | Display the cpu percent use by the process
crc | flag since=4.1 | Enable CRC
crcKind <kind> | str key=crckind since=4.1 | Kind of CRC
dataLen <bytes> | llu 28 2147482620 | Set length of payload for each send. Default: 100
domain <id> | d 0 250 | RTI DDS Domain. Default: 1
durability <0|1|2|3> | d 0 3 | Set durability QOS. Default: 0 (volatile)
dynamicData | flag | Use the Dynamic Data APIs
enable-message-length | flag key=enable-header-extension since=4.1 | Message length in a header extension
flatData | flag key=flatdata | Use FlatData language binding
flowController <flow> | str default,1Gbps,10Gbps | Flow controller of the asynchronous writer
instances <count> | ld 1 LONG | Number of instances (keys). Default: 1
keyed | flag | Use keyed data. Default: unkeyed
messageSizeMax <bytes> | d 1 INT since=4.2 | Largest message
networkCapture | flag since=3.2 | Capture the traffic
noOutputHeaders | flag | Don't print headers
noPositiveAcks | flag | Disable use of positive acks
noPrintIntervals | flag | Don't print statistics at intervals during the test
noXmlQos | flag | Skip loading the qos profiles from the xml profile
outputFile <filename> | str since=4.0 | Write the results to this file
outputFormat <format> | str csv,json,legacy | Format of the results. Default: csv
qosFile <filename> | str | XML file with QoS. Default: perftest_qos_profiles.xml
qosLibrary <lib name> | str | Name of the QoS library
receiveQueueSize <number> | d 1 INT | Samples in the receive queue. Default: 128
sendQueueSize <number> | d 1 INT | Samples in the send queue. Default: 50
showResourceLimits | flag | Show the resource limits
threadCPUAffinity <A:B:C:D> | str since=4.3 | Bind threads to processors
threadPriorities <X:Y:Z> | str | Priorities of the application's threads
unbounded <allocation_threshold> | d? 28 65470 | Use unbounded sequences
useReadThread | flag | Use separate thread instead of callback to read data
verbosity <level> | d 0 3 | 0 - SILENT, 1 - ERROR, 2 - WARNING, 3 - ALL. Default: 1
waitsetDelayUsec <usec> | llu 0 10000000 | Delay of the wait set. Default: 100
waitsetEventCount <count> | ld 1 LONG | Events of the wait set. Default: 5
zeroCopy | flag key=zerocopy | Use Zero Copy transfer mode
PUBLISHER
batchSize <bytes> | ld 0 2147482619 | Size in bytes of batched message. Default: 8kB
enableAutoThrottle | flag | Enable the AutoThrottling feature
enableTurboMode | flag | Enable the TurboMode feature
executionTime <sec> | llu 1 | Set a maximum duration for the test. Default: not set
initialBurstSize <count> | ld 0 LONG | Size of the initial burst
latencyCount <count> | llu 1 | Samples (or batches) for each ping. Default: 10000
latencyFile <filename> | str since=4.1 | Write every latency to this file
latencyTest | flag | Run a latency test (ping-pong)
loadDataFromFile <filename> | str | Payload of the samples
lowResolutionClock | flag | The clock has a low resolution
numIter <count> | llu 1 | Set number of messages to send. Default: 100000000
numSubscribers <count> | d 1 INT | Number of subscribers running in test. Default: 1
pidMultiPubTest <bytes> | d 0 INT | Set id of the publisher. Default: 0
pub | flag | Set test to be a publisher
pubRate <samples/s>:<method> | pair 1 10000000 sleep,spin | Limit the throughput in samples
pubRatebps <bits/s>:<method> | pair 1 10000000 sleep,spin before=4.3 | Limit the throughput in bits
pubRatebps <bits/s>:<method> | pair 1 LONG sleep,spin since=4.3 | Limit the throughput in bits
scan <size1>:<size2>:...:<sizeN> | list? 28 2147482620 before=4.2 | Several data lengths in one test
showSerializationTime | flag key=serializationTime | Show serialization times
sleep <millisec> | llu 1 | Time to sleep between each send. Default: 0
spin <count> | llu 1 hidden |
writeInstance <instance> | ld 0 LONG | Set the instance number to be sent
writerStats | flag | Display the writer's statistics
SUBSCRIBER
cft <start>:<end> | list 0 65535 | Use a Content Filtered Topic
numPublishers <count> | d 1 INT | Number of publishers running in test. Default: 1
sidMultiSubTest <bytes> | d 0 INT | Set id of the subscriber. Default: 0
sub | flag | Set test to be a subscriber
TRANSPORT
allowInterfaces <ipaddr> | str hidden |
multicast | flag | Use multicast to send data
multicastAddr <address> | str | Use these multicast addresses
nic <ipaddr> | str | Use only the nic specified by <ipaddr>
peer <address> | many | Adds a peer to the peer host address list
transport <kind> | str UDPv4,UDPv6,SHMEM,TCP,TLS,DTLS,WAN,UDPv4_WAN | Set transport. Default: Use XML (UDPv4|SHMEM)
"""


class Option:
    """One line of the table."""

    def __init__(self, group: str, line: str) -> None:
        spelling, _, rest = line.partition(" | ")
        form, _, self.text = rest.partition(" |")
        name, _, self.value = spelling.partition(" ")
        self.group = group
        self.name = "-" + name
        self.key = name
        self.kind, *words = form.split()
        self.low, self.high = 0, U64_MAX
        self.choices: tuple[str, ...] = ()
        self.since: tuple[int, ...] = (3,)
        self.before: tuple[int, ...] = (99,)
        self.hidden = "hidden" in words
        ends = [
            {"INT": INT_MAX, "LONG": LONG_MAX}.get(w) or int(w) for w in words if w in ("INT", "LONG") or w.isdigit()
        ]
        if ends:
            self.low, self.high = ends[0], ends[1] if len(ends) > 1 else U64_MAX
        for word in words:
            name, equals, value = word.partition("=")
            if name in ("since", "before"):
                setattr(self, name, read_version(value))
            elif equals:
                self.key = value
            elif "," in word:
                self.choices = tuple(word.split(","))


def read_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def read_table() -> list[Option]:
    options, group = [], ""
    for line in TABLE.strip().splitlines():
        if "|" in line:
            options.append(Option(group, line))
        else:
            group = line
    return options


OPTIONS = read_table()
GROUPS = ("GENERAL", "PUBLISHER", "SUBSCRIBER", "TRANSPORT")


class Settings:
    """What the command line says. Only what was given is in `given`."""

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self.peers: list[str] = []

    def number(self, key: str, default: int) -> int:
        return self.numbers.get(key, default)

    def text(self, key: str, default: str = "") -> str:
        return self.texts.get(key, default)


def table(version: tuple[int, ...]) -> list[Option]:
    """The options of a version in the order they are searched: ASCII order of their keys."""
    return sorted((o for o in OPTIONS if o.since <= version < o.before), key=lambda option: option.key)


def scan_number(text: str, kind: str) -> int | None:
    """What sscanf reads with %llu, %ld or %d: blanks, a sign, digits; whatever follows is ignored."""
    text = text.lstrip(" \t\n\v\f\r")
    sign, digits = 1, text
    if text[:1] in ("+", "-") and text:
        sign, digits = (-1 if text[0] == "-" else 1), text[1:]
    end = 0
    while end < len(digits) and digits[end] in "0123456789":
        end += 1
    if not end:
        return None
    value = sign * int(digits[:end])
    if kind == "llu":
        return min(value, U64_MAX) if value >= 0 else value % (U64_MAX + 1)
    value = max(-LONG_MAX - 1, min(value, LONG_MAX))
    return (value + 2**31) % 2**32 - 2**31 if kind == "d" else value


def read_options(arguments: list[str], version: tuple[int, ...]) -> tuple[Settings, list[str]]:
    """The settings of a command line, and the complaints Perftest prints (none: it goes on)."""
    settings, complaints = Settings(), []
    options = table(version)
    at = 0
    while at < len(arguments):
        word = arguments[at].lower()
        option = next((o for o in options if o.name.lower().startswith(word)), None)
        at += 1
        if option is None:
            complaints.append(f"Cannot parse '{arguments[at - 1]}', invalid input.")
            continue
        settings.given.add(option.key)
        if option.kind == "flag":
            continue
        if at >= len(arguments) or arguments[at].startswith("-"):
            if option.kind.endswith("?"):
                continue
            complaints.append(f"Missing '{option.value}' after '{option.name}'")
            return settings, complaints
        value = arguments[at]
        at += 1
        try:
            complaints += _read_value(settings, option, value)
        except ValueError as missing:
            complaints.append(str(missing))
            return settings, complaints
    if not complaints:
        complaints = _wrong_side(settings)
    return settings, complaints


def _read_value(settings: Settings, option: Option, value: str) -> list[str]:
    """Store one value; the complaints about it. ValueError: Perftest stops reading here."""
    kind = option.kind.rstrip("?")
    settings.texts[option.key] = value
    words: list[str] = []
    numbers = [value]
    if kind == "many":
        settings.peers.append(value)
        return []
    if kind == "str":
        words, numbers = [value], []
    elif kind == "pair":
        parts = [part for part in value.split(":") if part]
        if len(parts) != 2:
            raise ValueError(f"Missing '{option.value}' after '{option.name}'")
        numbers, words = parts[:1], parts[1:]
    elif kind == "list":
        numbers = [part for part in value.split(":") if part]
    complaints = []
    for text in numbers:
        number = scan_number(text, kind if kind in ("d", "ld") else "llu")
        if number is None:
            complaints.append(f"Cannot parse '{option.value}' '{option.name}', invalid input.")
        elif not option.low <= number % 2**64 <= option.high:
            complaints.append(
                f"In the argument '{option.name}', '{option.value}' should be in the range [{option.low},{option.high}]"
            )
        else:
            settings.numbers[option.key] = number
    if option.choices:
        complaints += [
            f"In the argument '{option.name}', incorrect '{option.value}':  {word}"
            for word in words
            if word not in option.choices
        ]
    return complaints


def _wrong_side(settings: Settings) -> list[str]:
    complaints = []
    for group, side in (("PUBLISHER", "sub"), ("SUBSCRIBER", "pub")):
        if side in settings.given:
            names = {option.key: option.name for option in OPTIONS if option.group == group}
            complaints += [
                f"Cannot use '{names[key]}' while setting '-{side}'." for key in sorted(settings.given) if key in names
            ]
    return complaints


def help_text(version: tuple[int, ...]) -> str:
    """What -help prints."""
    lines = ["*" * 100, "Usage:\t perftest_cpp [options]", "Where [options] are:"]
    known = table(version)
    for group in GROUPS:
        lines.append(f" {group} ".center(100, "="))
        if group == "GENERAL":
            lines.append("\t-help                           - Print this usage message and exit")
        for option in known:
            if option.group == group and not option.hidden:
                head = f"\t{option.name} {option.value}"
                lines.append(f"{head:<33}- {option.text.strip()}")
    return "\n".join([*lines, "*" * 100]) + "\n\n"


# ---------------------------------------------------------------------------------------------- printers


class Latencies:
    """A publisher's latency figures, in microseconds (nanoseconds in a nanosecond build)."""

    def __init__(self, average: float, deviation: float, low: int, high: int, percentiles: tuple[int, ...]) -> None:
        self.average = average
        self.deviation = deviation
        self.low = low
        self.high = high
        self.percentiles = percentiles  # 50, 90, 99, 99.99, 99.9999


class CsvPrinter:
    """The default layout. Every function of numbers gives the text Perftest prints for them."""

    def __init__(
        self,
        version: tuple[int, ...],
        length: int,
        *,
        intervals: bool = True,
        headers: bool = True,
        cpu: bool = False,
        serialization: bool = False,
        nano: bool = False,
    ) -> None:
        self.version = version
        self.length = length
        self.intervals = intervals
        self.headers = headers
        self.cpu = cpu
        self.serialization = serialization
        self.nano = nano
        self.old = version < (4,)
        self.unit = ("ns" if nano else "us") if self.old else "μs"

    def _cpu(self, cpu: float) -> str:
        return f",{cpu:8.2f}" if self.cpu else ""

    def _cpu_title(self) -> str:
        return ", CPU (%)" if self.cpu else ""

    def _time(self, value: float, width: int, decimals: int = 0) -> str:
        if self.nano and self.version >= (4, 3):
            return f",{value / 1000:{width}.3f}"
        return f",{value:{width}.{decimals}f}"

    def latency_title(self) -> str:
        if not (self.headers and self.intervals):
            return ""
        way = "One-way" if self.old else "One-Way"
        columns = ", ".join(f"{name} ({self.unit})" for name in ("Latency", "Ave", "Std", "Min", "Max"))
        return f"\nIntervals {way} Latency for {self.length} Bytes:\nLength (Bytes), {columns}{self._cpu_title()}\n"

    def latency_row(self, latency: int, average: float, deviation: float, low: int, high: int, cpu: float = 0.0) -> str:
        return (
            f"{self.length:14d}{self._time(latency, 13)}{self._time(average, 9)}{self._time(deviation, 9, 1)}"
            f"{self._time(low, 9)}{self._time(high, 9)}{self._cpu(cpu)}\n"
        )

    def latency_summary(
        self, figures: Latencies, serialize: float = 0.0, deserialize: float = 0.0, cpu: float = 0.0
    ) -> str:
        names = ["Ave", "Std", "Min", "Max", "50%", "90%", "99%", "99.99%", "99.9999%"]
        if self.serialization:
            names += ["Serialization", "Deserialization", "Total"]
        columns = ", ".join(f"{name} ({self.unit})" for name in names)
        head = self._summary_head("One-way Latency Summary", columns)
        widths = (9, 9, 9, 12, 14)
        percentiles = "".join(self._time(p, widths[i]) for i, p in enumerate(figures.percentiles))
        times = ""
        if self.serialization:
            times = f",{serialize:19.3f},{deserialize:21.3f},{serialize + deserialize:11.3f}"
        return (
            f"{head}{self.length:{self._summary_width()}d}{self._time(figures.average, 9)}"
            f"{self._time(figures.deviation, 9, 1)}{self._time(figures.low, 9)}{self._time(figures.high, 9)}"
            f"{percentiles}{times}{self._cpu(cpu)}\n"
        )

    def throughput_title(self) -> str:
        if not (self.headers and self.intervals):
            return ""
        mean = "Ave" if self.old else "Avg"
        return (
            f"\nInterval Throughput for {self.length} Bytes:\nLength (Bytes), Total Samples,  Samples/s, "
            f"{mean} Samples/s,     Mbps,  {mean} Mbps, Lost Samples, Lost Samples (%){self._cpu_title()}\n"
        )

    def throughput_row(
        self,
        samples: int,
        rate: int,
        mean_rate: float,
        mbps: float,
        mean_mbps: float,
        lost: int,
        lost_percent: float,
        cpu: float = 0.0,
    ) -> str:
        return (
            f"{self.length:14d},{samples:14d},{rate:11d},{mean_rate:14.0f},{mbps:9.1f},{mean_mbps:10.1f}, "
            f"{lost:12d}, {lost_percent:16.2f}{self._cpu(cpu)}\n"
        )

    def throughput_summary(
        self, samples: int, rate: int, mbps: float, lost: int, lost_percent: float, cpu: float = 0.0
    ) -> str:
        mean = "Ave" if self.old else "Avg"
        columns = f"Total Samples, {mean} Samples/s,    {mean} Mbps, Lost Samples, Lost Samples (%)"
        return (
            f"{self._summary_head('Throughput Summary', columns)}{self.length:{self._summary_width()}d},"
            f"{samples:14d},{rate:14d},{mbps:12.1f}, {lost:12d}, {lost_percent:16.2f}{self._cpu(cpu)}\n"
        )

    def _summary_width(self) -> int:
        return 14 if self.old else 19

    def _summary_head(self, title: str, columns: str) -> str:
        if not self.headers:
            return ""
        first = "Length (Bytes)" if self.old else "Sample Size (Bytes)"
        titled = f"\n{title}:\n" if self.intervals or self.old else ""
        return f"{titled}{first}, {columns}{self._cpu_title()}\n"


class JsonPrinter(CsvPrinter):
    """-outputFormat json as C++ prints it: the inside of the document only. Stateful: commas between intervals."""

    first = True

    def _cpu_pair(self) -> tuple[tuple[str, str], ...]:
        return (("cpu" if self.old else "CPU", "{:.2f}"),) if self.cpu else ()

    def _interval(self, pairs: list[tuple[str, str]]) -> str:
        comma, self.first = ("" if self.first else ","), False
        body = ",\n".join(f'\t\t\t\t\t"{name}": {value}' for name, value in pairs)
        return f"{comma}\n\t\t\t\t{{\n{body}\n\t\t\t\t}}"

    def _block(self, opening: str, pairs: list[tuple[str, str]]) -> str:
        body = ",\n".join(f'\t\t\t\t"{name}": {value}' for name, value in pairs)
        return f'{opening}\t\t\t"summary":{{\n{body}\n\t\t\t}}\n\t\t}}'

    def _with_cpu(self, pairs: list[tuple[str, str]], cpu: float) -> list[tuple[str, str]]:
        return [*pairs, *((name, form.format(cpu)) for name, form in self._cpu_pair())]

    def latency_title(self) -> str:
        return f'\t\t\t"length":{self.length},\n' + ('\t\t\t"intervals":[\n' if self.intervals else "")

    throughput_title = latency_title

    def latency_row(self, latency: int, average: float, deviation: float, low: int, high: int, cpu: float = 0.0) -> str:
        pairs = [
            ("latency", f"{latency}"),
            ("latency_ave", f"{average:.2f}"),
            ("latency_std", f"{deviation:.2f}"),
            ("latency_min", f"{low}"),
            ("latency_max", f"{high}"),
        ]
        return self._interval(self._with_cpu(pairs, cpu))

    def latency_summary(
        self, figures: Latencies, serialize: float = 0.0, deserialize: float = 0.0, cpu: float = 0.0
    ) -> str:
        pairs = [
            ("latency_ave", f"{figures.average:.2f}"),
            ("latency_std", f"{figures.deviation:.2f}"),
            ("latency_min", f"{figures.low}"),
            ("latency_max", f"{figures.high}"),
        ]
        names = ("50", "90", "99", "99.99", "99.9999")
        pairs += [(f"latency_{names[i]}", f"{value}") for i, value in enumerate(figures.percentiles)]
        if self.serialization:
            pairs += [
                ("serialize", f"{serialize:.3f}"),
                ("deserialize", f"{deserialize:.3f}"),
                ("total_s", f"{serialize + deserialize:.3f}"),
            ]
        return self._block("\n\t\t\t],\n" if self.intervals else "", self._with_cpu(pairs, cpu))

    def throughput_row(
        self,
        samples: int,
        rate: int,
        mean_rate: float,
        mbps: float,
        mean_mbps: float,
        lost: int,
        lost_percent: float,
        cpu: float = 0.0,
    ) -> str:
        pairs = [
            ("length", f"{self.length}"),
            ("packets", f"{samples}"),
            ("packets/s", f"{rate}"),
            ("packets/s_ave", f"{mean_rate:.2f}"),
            ("mbps", f"{mbps:.1f}"),
            ("mbps_ave", f"{mean_mbps:.1f}"),
            ("lost", f"{lost}"),
            ("lost_percent", f"{lost_percent:.2f}"),
        ]
        return self._interval(self._with_cpu(pairs, cpu))

    def throughput_summary(
        self, samples: int, rate: int, mbps: float, lost: int, lost_percent: float, cpu: float = 0.0
    ) -> str:
        pairs = [
            ("packets", f"{samples}"),
            ("packets/sAve", f"{rate}"),
            ("mbpsAve", f"{mbps:.1f}"),
            ("lost", f"{lost}"),
            ("lostPercent", f"{lost_percent:.2f}"),
        ]
        return self._block("\t\t\t],\n" if self.intervals else "", self._with_cpu(pairs, cpu))


class LegacyPrinter(CsvPrinter):
    """-outputFormat legacy."""

    def _cpu(self, cpu: float) -> str:
        return f" CPU {cpu:.2f} (%)" if self.cpu else ""

    def latency_title(self) -> str:
        if not (self.headers and self.intervals):
            return ""
        return f"\n\n********** New data length is {self.length}\n"

    throughput_title = latency_title

    def latency_row(self, latency: int, average: float, deviation: float, low: int, high: int, cpu: float = 0.0) -> str:
        unit, way = self.unit, "One way" if self.old else "One-Way"
        return (
            f"{way} Latency: {latency:6d} {unit} Ave {average:6.0f} {unit} Std {deviation:6.1f} {unit} "
            f"Min {low:6d} {unit} Max {high:6d} {unit}{self._cpu(cpu)}\n"
        )

    def latency_summary(
        self, figures: Latencies, serialize: float = 0.0, deserialize: float = 0.0, cpu: float = 0.0
    ) -> str:
        unit = self.unit
        names = ("50%", "90%", "99%", "99.99%", "99.9999%")
        percentiles = "".join(f" {names[i]} {value:6d} {unit}" for i, value in enumerate(figures.percentiles))
        times = ""
        if self.serialization:
            times = (
                f"Serialization/Deserialization: {serialize:.3f} us / {deserialize:.3f} us / "
                f"TOTAL: {serialize + deserialize:.3f} us\n"
            )
        return (
            f"Length: {self.length:5d} Latency: Ave {figures.average:6.0f} {unit} Std {figures.deviation:6.1f} "
            f"{unit} Min {figures.low:6d} {unit} Max {figures.high:6d} {unit}{percentiles}{self._cpu(cpu)}\n{times}"
        )

    def throughput_row(
        self,
        samples: int,
        rate: int,
        mean_rate: float,
        mbps: float,
        mean_mbps: float,
        lost: int,
        lost_percent: float,
        cpu: float = 0.0,
    ) -> str:
        return (
            f"Packets: {samples:8d}  Packets/s: {rate:7d}  Packets/s(ave): {mean_rate:7.0f}  Mbps: {mbps:7.1f}  "
            f"Mbps(ave): {mean_mbps:7.1f}  Lost: {lost:5d} ({lost_percent:.2f}%){self._cpu(cpu)}\n"
        )

    def throughput_summary(
        self, samples: int, rate: int, mbps: float, lost: int, lost_percent: float, cpu: float = 0.0
    ) -> str:
        return (
            f"Length: {self.length:5d}  Packets: {samples:8d}  Packets/s(ave): {rate:7d}  "
            f"Mbps(ave): {mbps:7.1f}  Lost: {lost:5d} ({lost_percent:.2f}%){self._cpu(cpu)}\n"
        )


PRINTERS = {"csv": CsvPrinter, "json": JsonPrinter, "legacy": LegacyPrinter}

# ---------------------------------------------------------------------------------------------- output


def say(text: str, fd: int = 2) -> None:
    """Unbuffered, as C's standard error. A stream that does not take it is not Perftest's problem."""
    data = text.encode(errors="surrogateescape")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


class Output:
    """The data file or standard output, buffered as by C's stdio: whole blocks of 4096 bytes leave it, in order.

    Nothing else is written until `close`, unless `flush` is called; what is in the buffer dies with the process.
    """

    BLOCK = 4096

    def __init__(self, fd: int, path: str = "", left: str = "") -> None:
        self.fd = fd
        self.path = path  # "": standard output
        self._left = left  # a misbehaviour: what is to be left in the file
        self._buffer = bytearray()
        self._by_line = not path and os.isatty(fd)

    def write(self, text: str) -> None:
        self._buffer += text.encode()
        if self._left:
            return
        whole = len(self._buffer) // self.BLOCK * self.BLOCK
        self._send(len(self._buffer) if self._by_line else whole)

    def flush(self) -> None:
        if not self._left:
            self._send(len(self._buffer))

    def close(self) -> None:
        """Write what is left, as a normal exit does."""
        if self._left:
            self._buffer = bytearray(spoil(bytes(self._buffer), self._left))
            if self._left == "no-file" and self.path:
                os.unlink(self.path)
        self._send(len(self._buffer))

    def _send(self, count: int) -> None:
        if count:
            data = bytes(self._buffer[:count])
            del self._buffer[:count]
            try:
                while data:
                    data = data[os.write(self.fd, data) :]
            except OSError:
                pass  # as fprintf on a full disk: nobody looks


def spoil(content: bytes, left: str) -> bytes:
    """What a misbehaving participant leaves of the content it should have written."""
    kind, _, argument = left.partition("=")
    summary = max(content.find(b"\nOne-way Latency Summary"), content.find(b"\nThroughput Summary"))
    rows = content if summary < 0 else content[:summary]
    if kind == "header-only":
        return b"".join(content.splitlines(keepends=True)[:3])
    if kind == "truncated":
        return rows[:-20]
    if kind == "no-summary":
        return rows
    if kind == "appended":
        return content + content
    if kind == "garbage":
        return bytes(range(256)) * 16 + b"\n"
    if kind == "huge":
        return content + b"x" * (int(argument or 1) << 20)
    return b""  # no-file, empty


# ---------------------------------------------------------------------------------------------- misbehaviour

LEFT = ("no-file", "empty", "header-only", "truncated", "no-summary", "appended", "garbage", "huge")
KINDS = {
    *("wont-start", "option-error", "exit", "crash-at-start", "slow-start", "no-match", "ignore-term", "orphan"),
    *("flood", "flood-stdout", "noise", "crash", "early-exit", "hang", "hang-after-data", "no-pongs"),
    *LEFT,
}
LOADER_TEXT = (
    "perftest_cpp: error while loading shared libraries: libnddscpp.so: "
    "cannot open shared object file: No such file or directory\n"
)
LICENCE_TEXT = (
    "RTI Connext DDS No source for License information. A valid RTI license file is required.\n"
    "DDS_DomainParticipantFactory_create_participant_disabledI:!license check failed\n"
    "[Error]: _MessagingImpl was null or it could not be initialized\n"
)


def misbehaviours(text: str, name: str, settings: Settings, arguments: list[str]) -> dict[str, str]:
    """The kinds, with their arguments, that apply to the participant `name`. Uses up those that happen once.

    ValueError: not a specification, or an unknown kind.
    """
    if text.startswith("@"):
        try:
            with open(os.path.expanduser(text[1:])) as file:  # noqa: PTH123 - pathlib is slow to import
                text = file.read().strip()
        except FileNotFoundError:
            text = ""
    found: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ";").split(";"))):
        selector, colon, kinds = entry.partition(":")
        if not colon:
            raise ValueError(f"STANDIN_MISBEHAVE: '{entry}' is not SELECTOR:KIND")
        for spec in kinds.split(","):
            rest, _, once = spec.strip().partition("@")
            rest, _, needed = rest.partition("#")
            kind, _, argument = rest.partition("=")
            if kind not in KINDS:
                raise ValueError(f"STANDIN_MISBEHAVE: there is no '{kind}'; known: {', '.join(sorted(KINDS))}")
            applies = _selected(selector.strip(), name, settings) and needed in " ".join(arguments)
            if applies and kind not in found and (not once or _first_time(once)):
                found[kind] = argument
    return found


def _selected(selector: str, name: str, settings: Settings) -> bool:
    who, _, condition = selector.partition("/")
    if who != name and (who != name.partition("_")[0] or "_" in who) and (who != "*" or name == "help"):
        return False
    if not condition:
        return True
    key, equals, value = condition.partition("=")
    return settings.text(key) == value if equals else key in settings.given


def _first_time(path: str) -> bool:
    try:
        os.close(os.open(os.path.expanduser(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def end_by_signal(number: int) -> None:
    """End (or stop) this process by a signal with its default effect."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(1)


def leave_orphan(seconds: float) -> None:
    """A process in a session of its own that outlives this one, doing nothing."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(seconds)
    os._exit(0)


# ---------------------------------------------------------------------------------------------- configuration


class Bad(Exception):
    """Perftest refuses to go on: its text, and exit status 255."""


class Lab:
    """What the environment says about this stand-in."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.version_text = environment.get("STANDIN_VERSION") or "4.1.1"
        self.version = read_version(self.version_text)
        self.fast = environment.get("STANDIN_FAST", "") not in ("", "0")
        self.rate = float(environment.get("STANDIN_RATE") or 2000)
        self.lease = float(environment.get("STANDIN_LEASE") or (10 if self.fast else 100))
        self.net = environment.get("STANDIN_NET", "").encode()[:200]
        self.nic = environment.get("STANDIN_NIC", "")
        self.peers = [p for p in environment.get("STANDIN_PEERS", "").replace(",", " ").split() if p]
        self.nano = environment.get("STANDIN_NANO", "") not in ("", "0")
        self.misbehave = environment.get("STANDIN_MISBEHAVE", "")
        self.poll = 0.1 if self.fast else 1.0  # between looks at who has been discovered, and announcements
        self.before_data = 0.2 if self.fast else 1.0
        self.after_end = 0.1 if self.fast else 2.0  # subscriber, before it says that it finishes
        self.teardown = 0.1 if self.fast else 2.0

    def banner(self, quirks: dict[str, str]) -> str:
        """The first line of standard error. Perftest has the name of its middleware in the parentheses."""
        bent = ["fast"] if self.fast else []
        bent += [f"rate {self.rate:g}"] if self.rate != 2000 else []
        bent += [f"lease {self.lease:g}"] if self.lease != 100 and not self.fast else []
        bent += [f"misbehaves: {' '.join(sorted(quirks))}"] if quirks else []
        notes = "".join(f"; {note}" for note in bent)
        return f"RTI Perftest {self.version_text} (autoperfd stand-in, not RTI Perftest{notes})\n"


class Config:
    """One participant's configuration, checked as Perftest checks it (Bad)."""

    BATCH = 8192

    def __init__(self, settings: Settings, version: tuple[int, ...]) -> None:
        given, number = settings.given, settings.number
        self.settings = settings
        self.version = version
        self.publisher = "pub" in given
        self.index = number("pidMultiPubTest" if self.publisher else "sidMultiSubTest", 0)
        self.data_len = number("dataLen", 100)
        self.reliable = "bestEffort" not in given
        self.durability = number("durability", 0)
        self.keyed = "keyed" in given
        self.large = self.data_len > BOUNDED_SAMPLE or "unbounded" in given
        self.domain = number("domain", 1)
        self.multicast = bool({"multicast", "multicastAddr"} & given)
        self.group = settings.text("multicastAddr", "239.255.1.1").split(",")[0]
        self.latency_test = "latencyTest" in given
        self.latency_count = number("latencyCount", 1 if self.latency_test else 10000)
        self.num_iter = number("numIter", 10_000_000 if self.latency_test else 100_000_000)
        self.execution_time = number("executionTime", 0)
        self.peers_wanted = number("numSubscribers" if self.publisher else "numPublishers", 1)
        self.intervals = "noPrintIntervals" not in given
        self.cpu = "cpu" in given
        if self.publisher:
            self._check_publisher()
        self.batch = self._batch()
        self.samples_per_batch = max(1, self.batch // self.data_len)

    @property
    def name(self) -> str:
        return f"{'pub' if self.publisher else 'sub'}_{self.index}"

    @property
    def control(self) -> int:
        """The payload size of a sample: some sizes are messages of Perftest to itself."""
        return self.data_len - OVERHEAD

    def _check_publisher(self) -> None:
        given = self.settings.given
        if self.latency_test and self.index != 0:
            raise Bad("Only the publisher with ID = 0 can run the latency test")
        if self.num_iter < self.latency_count:
            raise Bad(f"numIter ({self.num_iter}) must be greater than latencyCount ({self.latency_count}).")
        if "lowResolutionClock" in given and self.latency_count != 1:
            raise Bad("The -lowResolutionClock option should only be used if latencyCount is 1.")
        wanted = self.settings.number("writeInstance", 0)
        if wanted > self.settings.number("instances", 1):
            raise Bad(
                f"Specified '-WriteInstance' ({wanted}) invalid: Bigger than the number of instances "
                f"({self.settings.number('instances', 1)})."
            )

    def _batch(self) -> int:
        """Bytes of a batch; 0: no batching; below: why Perftest has switched it off."""
        size = self.settings.number("batchSize", self.BATCH)
        asked = "batchSize" in self.settings.given
        if size == 0 or not self.publisher:
            return 0
        if "asynchronous" in self.settings.given:
            if asked:
                raise Bad("Batching cannot be used with asynchronous writing.")
            return 0
        if self.data_len > BOUNDED_SAMPLE:
            if asked:
                raise Bad("Batching cannot be used with Large Data.")
            return -2
        if self.latency_test or size < 2 * self.data_len:
            return -1 if asked or self.latency_test else 0
        return size

    def rate_limit(self) -> float:
        """Samples a second that the options allow."""
        limit = float("inf")
        if "pubRate" in self.settings.given:
            limit = self.settings.number("pubRate", 1)
        elif "pubRatebps" in self.settings.given:
            limit = max(1, self.settings.number("pubRatebps", 1) // (8 * self.data_len))
        elif "sleep" in self.settings.given:
            limit = 1000 / self.settings.number("sleep", 1)
        return limit

    def describe(self) -> str:
        """What Perftest says about its configuration before it starts."""
        given, text = self.settings.given, self.settings.text

        def yes(key: str) -> str:
            return "Yes" if key in given else "No"

        lines = []
        if self.publisher and self.latency_test:
            lines += ["", "Mode: LATENCY TEST (Ping-Pong test)"]
        elif self.publisher:
            lines += ["", "Mode: THROUGHPUT TEST", '      (Use "-latencyTest" for Latency Mode)']
        lines += [
            "",
            "Perftest Configuration:",
            f"\tReliability: {'Reliable' if self.reliable else 'Best Effort'}",
            f"\tKeyed: {yes('keyed')}",
            f"\t{'Publisher' if self.publisher else 'Subscriber'} ID: {self.index}",
        ]
        if self.publisher:
            lines += [
                f"\tLatency count: 1 latency sample every {self.latency_count} samples",
                f"\tData Size: {self.data_len}",
                *self._describe_batching(),
                f"\tPublication Rate: {self._describe_rate()}",
                f"\tExecution time: {self.execution_time} seconds"
                if self.execution_time
                else f"\tNumber of samples: {self.num_iter}",
            ]
        else:
            lines += [f"\tData Size: {self.data_len}"]
        lines += [
            f"\tReceive using: {'WaitSets' if 'useReadThread' in given else 'Listeners'}",
            f"\tDomain: {self.domain}",
            f"\tDynamic Data: {yes('dynamicData')}",
        ]
        if self.version >= (4, 1):
            lines += [
                f"\tCRC Enabled: {yes('crc')}",
                f"\tMessage Length Header Extension Enabled: {yes('enable-header-extension')}",
            ]
        lines += [f"\tFlatData: {yes('flatdata')}", f"\tZero Copy: {yes('zerocopy')}"]
        if self.publisher:
            # Up to 4.1.1 big data switches it on by itself.
            asynchronous = "asynchronous" in given or (self.version < (4, 2) and self.data_len > BOUNDED_SAMPLE)
            lines += [f"\tAsynchronous Publishing: {'Yes' if asynchronous else 'No'}"]
            lines += [f"\tFlow Controller: {text('flowController', 'default')}"] if asynchronous else []
        if "enableTurboMode" in given:
            lines += ["\tTurbo Mode: Enabled"]
        if "enableAutoThrottle" in given:
            lines += ["\tAutoThrottle: Enabled"]
        xml = "Disabled" if "noXmlQos" in given else text("qosFile", "perftest_qos_profiles.xml")
        lines += [f"\tXML File: {xml}"]
        if self.version >= (3, 2):
            lines += [f"\tNetwork capture: {yes('networkCapture')}"]
        nic = text("allowInterfaces") or text("nic")
        lines += ["Transport Configuration:", f"\tKind: {text('transport', 'UDPv4 & SHMEM')}"]
        lines += [f"\tNic: {nic}"] if nic else []
        lines += [f"\tUse Multicast: {self.multicast}"]
        if self.settings.peers:
            lines += [f"\tInitial peers: {', '.join(self.settings.peers)}"]
        if self.large:
            note = "\n[IMPORTANT]: Using the Unbounded Sequence Type."
            if self.data_len > BOUNDED_SAMPLE:
                note += (
                    f" -datalen ({self.data_len}) is \n             larger than MAX_BOUNDED_SEQ_SIZE ({BOUNDED_SAMPLE})"
                )
            lines += [note]
        return "\n".join([*lines, "", ""])

    def _describe_batching(self) -> list[str]:
        if self.batch > 0:
            return [f'\tBatching: {self.batch} Bytes (Use "-batchSize 0" to disable batching)']
        if self.batch == 0:
            return ['\tBatching: No (Use "-batchSize" to setup batching)']
        if self.batch == -2:
            why = ["\t\t  BatchSize cannot be used with", "\t\t  Large Data."]
        elif self.latency_test:
            why = ["\t\t  BatchSize disabled for a Latency Test"]
        else:
            why = ["\t\t  BatchSize is smaller than 2 times", "\t\t  the sample size."]
        return ["\tBatching: Disabled by RTI Perftest.", *why]

    def _describe_rate(self) -> str:
        for key, unit in (("pubRate", "Samples/s"), ("pubRatebps", "bps")):
            if key in self.settings.given:
                count, _, method = self.settings.text(key).partition(":")
                return f"{scan_number(count, 'llu')} {unit} ({method.capitalize()})"
        return "Unlimited (Not set)"


# ---------------------------------------------------------------------------------------------- the network

MAGIC = b"APs1"
HEAD = struct.Struct("<4sB8s")  # magic, kind, who sends
HELLO, BYE, ANNOUNCE, INIT, DATA, END, PONG, ACK, HEARTBEAT = range(1, 10)
HELLO_BODY = struct.Struct("<BBHIBB")  # role, answer wanted, domain, index, flags, durability; then the net's word
SID_BODY = struct.Struct("<IB")  # subscriber's id, whether it says that it has finished
DATA_BODY = struct.Struct("<QIIIQQiI")  # first sample, samples, fragment, fragments, sent, base, ping for, dataLen
COUNT_BODY = struct.Struct("<QIB")  # next sample, its next fragment; ACK: 1 some are missing, 2 the end was seen
PONG_BODY = struct.Struct("<QI")  # the ping's time, dataLen
CHUNK = 16000  # payload of a datagram, at most
DISCOVERY_PORT = 17400
FIRST_PORT, PORTS_A_DOMAIN = 10000, 88
MULTICAST_PORT = 17700
IP_PKTINFO = 8  # the socket module has it since 3.12 only... on Linux it is this
SIOCGIFADDR, SIOCGIFFLAGS = 0x8915, 0x8913
INITIALIZE_SIZE, FINISHED_SIZE, LENGTH_CHANGED_SIZE = 1234, 1235, 1236
TOPICS = ("Throughput", "Latency", "Announcement")


class Peer:
    """A participant of the other role, as this one sees it."""

    def __init__(self, address: tuple[str, int], interface: int, hello: tuple[int, ...]) -> None:
        self.address = address
        self.interface = interface  # its index; 0: not known, so no multicast
        _, _, _, self.index, flags, self.durability = hello
        self.reliable = bool(flags & 1)
        self.keyed = bool(flags & 2)
        self.large = bool(flags & 4)
        self.multicast = bool(flags & 8)
        self.heard = time.monotonic()
        self.matched: set[str] = set()
        # a publisher's view of a subscriber
        self.base = 0  # the first sample that concerns it
        self.acknowledged = 0  # all samples before this one have arrived
        self.acknowledged_fragments = 0  # of that one
        self.end_seen = False
        self.resend_after = 0.0
        # a subscriber's view of a publisher
        self.expected = -1  # the next sample; -1: none yet
        self.fragments = 0  # of the expected sample, arrived
        self.ack_due = False
        self.complained = (-1, 0)  # what was asked for last
        self.complain_after = 0.0  # not again before
        self.pong = b""  # the last one sent


def interfaces(nic: str) -> list[tuple[int, bytes, bool]]:
    """(index, IPv4 address, loopback) of the interfaces to use; `nic`: addresses or names, "" for all."""
    found = []
    wanted = [word for word in nic.split(",") if word]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for index, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                address = fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24]
                (flags,) = struct.unpack("<H", fcntl.ioctl(probe, SIOCGIFFLAGS, request)[16:18])
            except OSError:
                continue  # no IPv4 address
            loopback = bool(flags & 8)
            if not flags & 1 or not flags & 0x1008:
                continue  # down, or neither loopback nor multicast
            mine = [word for word in wanted if word in (name, socket.inet_ntoa(address))]
            mine += [word for word in wanted if loopback and word.startswith("127.") and word not in mine]
            if wanted and not mine:
                continue
            if mine and mine[0].startswith("127."):
                address = socket.inet_aton(mine[0])  # any of 127/8 is loopback's
            found.append((index, address, loopback))
    return found


class Participant:
    """Sockets, discovery, matching and waiting: what publishers and subscribers have in common."""

    def __init__(self, config: Config, lab: Lab, quirks: dict[str, str], output: Output) -> None:
        self.config = config
        self.lab = lab
        self.quirks = quirks
        self.output = output
        self.guid = os.urandom(8)
        self.reliable = config.reliable ^ ("no-match" in quirks)
        self.peers: dict[bytes, Peer] = {}
        self.fellows: set[bytes] = set()  # participants of the same role
        self.first_data = 0.0  # when data began to flow, as seen from here
        nic = config.settings.text("allowInterfaces") or config.settings.text("nic") or lab.nic
        self._interfaces = interfaces(nic)
        self._discovery_group = f"239.255.{config.domain}.77"
        self.data = self._data_socket(nic)
        self._discovery = self._group_socket(self._discovery_group, DISCOVERY_PORT)
        self._discovery.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._sockets = [self.data, self._discovery]
        if config.multicast and not config.publisher:
            self._sockets.append(self._group_socket(config.group, MULTICAST_PORT + config.domain))
        self._hello_at = time.monotonic()
        self._hello_gap = 0.05 if lab.fast else 1.0
        self._cpu = (time.monotonic(), time.process_time())
        self._cpu_start = self._cpu

    # sockets

    def _data_socket(self, nic: str) -> socket.socket:
        data = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        data.setblocking(False)
        data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        host = socket.inet_ntoa(self._interfaces[0][1]) if nic and self._interfaces else ""
        first = FIRST_PORT + self.config.domain * PORTS_A_DOMAIN
        for port in [*range(first, first + PORTS_A_DOMAIN), 0]:
            try:
                data.bind((host, port))
                return data
            except OSError:
                continue
        raise Bad("[Error]: _MessagingImpl was null or it could not be initialized")

    def _group_socket(self, group: str, port: int) -> socket.socket:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind((group, port))
        for index, address, _ in self._interfaces:
            member = struct.pack("4s4si", socket.inet_aton(group), address, index)
            try:
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            except OSError:
                continue
        return receiver

    def send(self, kind: int, body: bytes, address: tuple[str, int]) -> None:
        """One datagram; what the network refuses is lost."""
        try:
            self.data.sendto(HEAD.pack(MAGIC, kind, self.guid) + body, address)
        except OSError:
            pass

    def send_group(self, kind: int, body: bytes, address: tuple[str, int], index: int = 0) -> None:
        """One datagram to a multicast group, on one interface or on all."""
        for number, source, _ in self._interfaces:
            if index in (0, number):
                try:
                    self.data.setsockopt(
                        socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", b"\0" * 4, source, number)
                    )
                except OSError:
                    continue
                self.send(kind, body, address)

    # discovery

    def _hello(self, answer: bool) -> bytes:
        config = self.config
        flags = self.reliable | config.keyed << 1 | config.large << 2 | config.multicast << 3
        role = 1 if config.publisher else 2
        body = HELLO_BODY.pack(role, answer, config.domain, config.index, flags, config.durability)
        return body + self.lab.net

    def announce_presence(self) -> None:
        body = self._hello(True)
        self.send_group(HELLO, body, (self._discovery_group, DISCOVERY_PORT))
        first = FIRST_PORT + self.config.domain * PORTS_A_DOMAIN
        for host in self.lab.peers:
            for port in range(first, first + PORTS_A_DOMAIN):
                self.send(HELLO, body, (host, port))

    def _met(self, guid: bytes, body: bytes, address: tuple[str, int], interface: int) -> None:
        hello = HELLO_BODY.unpack_from(body)
        role, answer, domain = hello[:3]
        if domain != self.config.domain or body[HELLO_BODY.size :] != self.lab.net:
            return
        if guid in self.peers:
            self.peers[guid].heard = time.monotonic()
            return
        if role == (1 if self.config.publisher else 2):
            if answer and guid not in self.fellows:
                self.send(HELLO, self._hello(False), address)
            self.fellows.add(guid)
            return
        peer = self.peers[guid] = Peer(address, interface, hello)
        if answer:
            self.send(HELLO, self._hello(False), address)
        self._match(peer)
        self.matched(peer)

    def _match(self, peer: Peer) -> None:
        """DDS's rules for the three topics; a mismatch is said once for each pair of endpoints."""
        config = self.config
        if (peer.keyed, peer.large) != (config.keyed, config.large):
            kind = f"TestData{'Keyed' if config.keyed else ''}{'Large' if config.large else ''}_t"
            for topic in TOPICS:
                say(f"Found inconsistent topic. Expecting {topic} of type {kind}.\n")
            return
        mine = (self.reliable, config.durability)
        theirs = (peer.reliable, peer.durability)
        publisher = config.index if config.publisher else peer.index
        for topic in TOPICS:
            if topic == "Latency" and publisher != 0:
                continue  # only publisher 0 reads it
            writes = config.publisher is (topic == "Throughput")
            offered, requested = (mine, theirs) if writes else (theirs, mine)
            policy = 0
            if topic != "Announcement":
                policy = 11 if requested[0] and not offered[0] else 2 if requested[1] > offered[1] else 0
            if policy:
                other, own = ("reader", "writer") if writes else ("writer", "reader")
                say(f"Found incompatible {other} for {own} {topic} QoS is {policy}.\n")
            else:
                peer.matched.add(topic)

    def matched(self, peer: Peer) -> None:
        """A peer has appeared (for subclasses)."""

    def lost(self, peer: Peer) -> None:
        """A peer has gone, or has been silent for a lease (for subclasses)."""

    def count(self, topic: str) -> int:
        return sum(topic in peer.matched for peer in self.peers.values())

    def wait_for(self, topic: str, count: int) -> None:
        """For ever, as Perftest does."""
        while self.count(topic) < count:
            self.pump(self.lab.poll)

    # time

    def pump(self, seconds: float, woken: list[bool] | None = None) -> None:
        """Do the network's work for so long; with `woken`, until it has an entry."""
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            self._due(now)
            wait = min(end, self._hello_at, self.next_due()) - now
            ready, _, _ = select.select(self._sockets, [], [], max(0.0, wait))
            for source in ready:
                self._receive(source)
            if woken or time.monotonic() >= end:
                return

    def next_due(self) -> float:
        return float("inf")

    def _due(self, now: float) -> None:
        if now >= self._hello_at:
            self.announce_presence()
            self._hello_at = now + self._hello_gap
            self._hello_gap = min(self._hello_gap * 2, max(1.0, self.lab.lease / 10)) if self.peers else 1.0
            for guid, peer in list(self.peers.items()):
                if now - peer.heard > self.lab.lease:
                    del self.peers[guid]
                    self.lost(peer)
        if self.first_data and now >= self.first_data + 1.0:
            self.first_data = float("inf")
            self._misbehave_amid_data()

    def _misbehave_amid_data(self) -> None:
        if "crash" in self.quirks:
            end_by_signal(int(self.quirks["crash"] or signal.SIGSEGV))
        if "early-exit" in self.quirks:
            say("Test ended.\n")
            os._exit(0)
        if self.quirks.get("hang") == "data":
            hang()

    def _receive(self, source: socket.socket) -> None:
        for _ in range(64):
            try:
                if source is self._discovery:
                    packet, extra, _, address = source.recvmsg(2048, 128)
                    interface = next(
                        (struct.unpack_from("i", value)[0] for _, kind, value in extra if kind == IP_PKTINFO), 0
                    )
                else:
                    packet, address = source.recvfrom(65535)
                    interface = 0
            except OSError:
                return
            if len(packet) < HEAD.size:
                continue
            magic, kind, guid = HEAD.unpack_from(packet)
            if magic != MAGIC or guid == self.guid:
                continue
            body = packet[HEAD.size :]
            try:
                if kind == HELLO:
                    self._met(guid, body, address, interface)
                elif guid in self.peers:
                    peer = self.peers[guid]
                    peer.heard = time.monotonic()
                    if kind == BYE:
                        del self.peers[guid]
                        self.lost(peer)
                    else:
                        self.heard(kind, peer, body)
            except struct.error:
                continue  # not from a stand-in of this version

    def heard(self, kind: int, peer: Peer, body: bytes) -> None:
        """A datagram from a known peer (for subclasses)."""
        raise NotImplementedError

    def bye(self) -> None:
        for peer in self.peers.values():
            self.send(BYE, b"", peer.address)

    # processor time

    def cpu_now(self) -> float:
        """Percent of all processors this process has used since the last call."""
        last, self._cpu = self._cpu, (time.monotonic(), time.process_time())
        return _percent(last, self._cpu)

    def cpu_mean(self) -> float:
        return _percent(self._cpu_start, (time.monotonic(), time.process_time()))

    def start_cpu(self) -> None:
        self._cpu = self._cpu_start = (time.monotonic(), time.process_time())

    def printer(self, length: int) -> CsvPrinter:
        given = self.config.settings.given
        return PRINTERS[self.config.settings.text("outputFormat", "csv")](
            self.lab.version,
            length,
            intervals=self.config.intervals,
            headers="noOutputHeaders" not in given,
            cpu=self.config.cpu,
            serialization="serializationTime" in given,
            nano=self.lab.nano,
        )

    def noise(self) -> None:
        """The middleware's own lines, which go to standard output (the data's stream, without -outputFile)."""
        if "noise" in self.quirks:
            text = "[0x01010101,WARNING] COMMENDBeWriterService_write:!send, retrying, 3 more times\n"
            if self.output.path:
                say(text, 1)
            else:
                self.output.write(text)


def _percent(first: tuple[float, float], last: tuple[float, float]) -> float:
    elapsed = last[0] - first[0]
    return 100 * (last[1] - first[1]) / elapsed / (os.cpu_count() or 1) if elapsed > 0 else 0.0


def hang() -> None:
    """Do nothing any more, for ever."""
    while True:
        time.sleep(3600)


# ---------------------------------------------------------------------------------------------- subscriber


class Subscriber(Participant):
    """Receives, answers pings, prints a row each second and a summary when all publishers have ended."""

    def __init__(self, config: Config, lab: Lab, quirks: dict[str, str], output: Output) -> None:
        super().__init__(config, lab, quirks, output)
        self._finished: set[int] = set()
        self._ended = False
        self._acknowledge_at = float("inf")
        self._acknowledged_end = False
        self._packets = self._bytes = self._missing = 0
        self._length = -1  # dataLen of the samples; -1: none so far
        self._begin = 0
        self._print: CsvPrinter | None = None

    def run(self) -> None:
        wanted = self.config.peers_wanted
        say(f"Waiting to discover {wanted} publishers ...\n")
        self.wait_for("Throughput", wanted)
        self.wait_for("Latency", 1)
        self.wait_for("Announcement", wanted)
        while True:
            self._announce(finished=False)
            self.pump(self.lab.poll)
            if self._packets:
                break
            if self._ended and self._length >= 0 and self.lab.version >= (4, 3) and _is_x86():
                end_by_signal(signal.SIGFPE)
        say("Waiting for data ...\n")
        self.start_cpu()
        self._rows()
        self._announce(finished=True)
        self._acknowledged_end = True
        self.pump(self.lab.after_end)
        say("Finishing test...\n")
        self.pump(self.lab.teardown)

    def _announce(self, *, finished: bool, to_silent: bool = False) -> None:
        for peer in self.peers.values():
            if "Announcement" in peer.matched and not (to_silent and peer.expected >= 0):
                self.send(ANNOUNCE, SID_BODY.pack(self.config.index, finished), peer.address)

    def _rows(self) -> None:
        """One row a second until the end; the first second prints none, as Perftest's does."""
        now = time.monotonic_ns() // 1000
        length, packets, size = -1, 0, 0
        mean_rate = mean_bytes = 0.0
        rows = 0
        while True:
            before = now
            self.pump(1.0)
            now = time.monotonic_ns() // 1000
            if self._ended:
                return
            self._announce(finished=False, to_silent=True)  # the topic is reliable: lost ones come again
            if not self.config.intervals:
                continue
            if length != self._length:
                length, packets, size = self._length, self._packets, self._bytes
                mean_rate, mean_bytes, rows = 0.0, 0.0, 0
                continue
            rate = (self._packets - packets) * 1_000_000 // (now - before)
            byte_rate = (self._bytes - size) * 1_000_000 // (now - before)
            packets, size = self._packets, self._bytes
            rows += 1
            mean_rate += (rate - mean_rate) / rows
            mean_bytes += (byte_rate - mean_bytes) / rows
            if packets and self._print:
                self.output.write(
                    self._print.throughput_row(
                        packets,
                        rate,
                        mean_rate,
                        byte_rate * 8 / 1e6,
                        mean_bytes * 8 / 1e6,
                        self._missing,
                        self._missing_percent(),
                        self.cpu_now() if self.config.cpu else 0.0,
                    )
                )
                self.noise()
                if not self.output.path:
                    self.output.flush()
                if "cacheStats" in self.config.settings.given:
                    say(
                        "Samples Ping Reader Queue:    0 (Peak:    1) Samples Pong Writer Queue:   0 (Peak:   1)\n",
                        1,
                    )

    def _missing_percent(self) -> float:
        total = self._packets + self._missing
        return self._missing * 100 / total if total else 0.0

    def heard(self, kind: int, peer: Peer, body: bytes) -> None:
        if "Throughput" not in peer.matched or kind not in (DATA, END, HEARTBEAT):
            return
        if kind != HEARTBEAT and peer.index >= self.config.peers_wanted:
            text = "ProcessMessage: message content no valid. message.entity_id out of bounds\n"
            if self.output.path:
                say(text, 1)
            else:
                self.output.write(text)
            if kind == END or not self.reliable:
                return
        if kind == DATA:
            self._data(peer, body)
        elif kind == HEARTBEAT:
            self._acknowledge(peer, missing=max(peer.expected, 0) < COUNT_BODY.unpack_from(body)[0])
            if peer.pong and self.reliable:
                self.send(PONG, peer.pong, peer.address)  # it may have been lost
        else:
            self._end(peer, COUNT_BODY.unpack_from(body)[0])

    def _data(self, peer: Peer, body: bytes) -> None:
        first, count, fragment, fragments, sent, base, ping, length = DATA_BODY.unpack_from(body)
        if peer.expected < 0:
            peer.expected = base if peer.reliable else first
        elif base > peer.expected:
            peer.expected, peer.fragments = base, 0
        if first + count <= peer.expected:
            return  # an old one again
        if peer.reliable and self.reliable:
            if first > peer.expected or fragment > peer.fragments:
                self._acknowledge(peer, missing=True)
                return
            if fragment < peer.fragments:
                return
        elif first > peer.expected:
            if fragment:
                return  # without its beginning; missed when a later sample comes
            if peer.index < self.config.peers_wanted:
                self._missing += first - peer.expected
            peer.expected, peer.fragments = first, 0
        elif fragment != peer.fragments:
            return
        peer.fragments += 1
        if peer.fragments < fragments:
            return
        arrived = first + count - peer.expected
        peer.expected, peer.fragments = first + count, 0
        if peer.reliable and not peer.ack_due:
            peer.ack_due = True
            self._acknowledge_at = min(self._acknowledge_at, time.monotonic() + 0.25)
        if peer.index < self.config.peers_wanted:
            self._sample(peer, arrived, length, sent, ping)

    def _sample(self, peer: Peer, count: int, length: int, sent: int, ping: int) -> None:
        """Samples have arrived that count, unless their payload's size makes them something else."""
        size = length - OVERHEAD
        if size == FINISHED_SIZE:
            self._finish(peer, 0)
            return
        if size == INITIALIZE_SIZE or (size == LENGTH_CHANGED_SIZE and self.lab.version < (4, 2)):
            return
        if not self.first_data:
            self.first_data = time.monotonic()
        if ping == self.config.index and "no-pongs" not in self.quirks and "Latency" in peer.matched:
            peer.pong = PONG_BODY.pack(sent, length)
            self.send(PONG, peer.pong, peer.address)
        if self._length != length:
            self._length = length
            self._packets = self._bytes = self._missing = 0
            self._begin = time.monotonic_ns() // 1000
            self._print = self.printer(length)
            self.output.write(self._print.throughput_title())
        self._packets += count
        self._bytes += count * length

    def _end(self, peer: Peer, total: int) -> None:
        if self._acknowledged_end:
            self.send(ANNOUNCE, SID_BODY.pack(self.config.index, True), peer.address)
        if peer.reliable and self.reliable and max(peer.expected, 0) < total:
            self._acknowledge(peer, missing=True)
            return
        self._acknowledge(peer, end=True)
        if "hang-after-data" not in self.quirks:
            self._finish(peer, max(0, total - max(peer.expected, 0)))

    def _finish(self, peer: Peer, missed: int) -> None:
        self._finished.add(peer.index)
        if self._ended or len(self._finished) < self.config.peers_wanted:
            return
        self._ended = True
        if self._print is None:
            say(
                "\nNo samples have been received by the Subscriber side,\n"
                "however 1 or more Publishers sent the finalization message.\n\n"
            )
            return
        self._missing += missed
        elapsed = max(1, time.monotonic_ns() // 1000 - self._begin)
        self.output.write(
            self._print.throughput_summary(
                self._packets,
                self._packets * 1_000_000 // elapsed,
                self._bytes * 1e6 / elapsed * 8 / 1e6,
                self._missing,
                self._missing_percent(),
                self.cpu_mean() if self.config.cpu else 0.0,
            )
        )
        if not self.output.path:
            self.output.flush()
        self._packets = self._bytes = self._missing = 0

    def _acknowledge(self, peer: Peer, *, missing: bool = False, end: bool = False) -> None:
        now = time.monotonic()
        position = (peer.expected, peer.fragments)
        if missing and position == peer.complained and now < peer.complain_after:
            return
        if missing:
            peer.complained, peer.complain_after = position, now + 0.01
        peer.ack_due = False
        self.send(ACK, COUNT_BODY.pack(max(peer.expected, 0), peer.fragments, missing | end << 1), peer.address)

    def next_due(self) -> float:
        return self._acknowledge_at

    def _due(self, now: float) -> None:
        super()._due(now)
        if now >= self._acknowledge_at:
            self._acknowledge_at = float("inf")
            for peer in self.peers.values():
                if peer.ack_due:
                    self._acknowledge(peer)


def _is_x86() -> bool:
    return os.uname().machine in ("x86_64", "i686", "i386")


# ---------------------------------------------------------------------------------------------- publisher


class Publisher(Participant):
    """Sends at a limited rate; publisher 0 measures half round trips; ends by time or by count."""

    DATAGRAMS = 200.0  # a second and publisher, at most
    DELIVERIES = 4000.0  # of datagrams a second, over all publishers and subscribers of a test
    BYTES = 40e6  # a second, likewise
    OWN_BYTES = 10e6  # a second and publisher
    BURST = 12  # datagrams of large samples, or of a repair, sent without a pause

    def __init__(self, config: Config, lab: Lab, quirks: dict[str, str], output: Output) -> None:
        super().__init__(config, lab, quirks, output)
        self._announced: set[int] = set()
        self._next = 0  # the next sample
        self._pings = 0
        self._ping = (-1, -1, 0)  # sample, subscriber, time of the last ping
        self._unanswered: set[int] = set()  # times of pings
        self._ponged: list[bool] = []
        self._history: list[int] = []
        self._raw: list[int] = []
        self._sum = self._squares = 0
        self._low = self._high = 0
        self._print: CsvPrinter | None = None
        self._stride = 1  # samples in a datagram
        self._fragments = max(1, -(-config.data_len // CHUNK))
        self._payload = memoryview(bytes(min(CHUNK, LARGEST_SAMPLE)))

    def run(self) -> None:
        config, lab = self.config, self.lab
        if "pubRatebps" in config.settings.given:
            say(f"Calculated Publication Rate is: {config.rate_limit():.0f} samples/s\n")
        say(f"Waiting to discover {config.peers_wanted} subscribers ...\n")
        self.wait_for("Throughput", config.peers_wanted)
        if config.index == 0:
            self.wait_for("Latency", config.peers_wanted)
        self.wait_for("Announcement", config.peers_wanted)
        say("Waiting for subscribers announcement ...\n")
        while len(self._announced) < config.peers_wanted:
            self.pump(lab.poll)
        burst = config.settings.number("initialBurstSize", max(50, config.settings.number("instances", 1)))
        say(f"Sending {burst} initialization pings ...\n")
        for _ in range(min(burst, 1000)):
            self._to_subscribers(INIT, b"")
        say("Sending data ...\n" if lab.version >= (3, 1) else "Publishing data ...\n")
        self.pump(lab.before_data)
        self.start_cpu()
        self.first_data = time.monotonic()
        by_timer = self._send_all()
        if self.quirks.get("hang") == "end" or ("hang" in self.quirks and not self.quirks["hang"]):
            hang()
        self._send_end()
        if config.index == 0:
            self._summary()
        else:
            say("Latency results are only shown when -pidMultiPubTest = 0\n")
        say("Finishing test due to timer...\n" if by_timer else "Finishing test...\n")
        self.pump(lab.teardown)

    # sending

    def _pace(self) -> tuple[float, int]:
        """(datagrams a second, samples in one), so that large tests do not eat the computer."""
        config = self.config
        pairs = max(1, self.count("Throughput")) * (len(self.fellows) + 1)
        rate = min(self.lab.rate, config.rate_limit(), min(self.BYTES / pairs, self.OWN_BYTES) / config.data_len)
        if self._fragments > 1:
            return rate * self._fragments, 1
        datagrams = min(self.DATAGRAMS, max(2.0, self.DELIVERIES / pairs))
        stride = max(1, min(round(rate / datagrams), CHUNK // config.data_len))
        if config.index == 0:
            stride = min(stride, config.latency_count * config.samples_per_batch)
        if config.latency_test:
            return min(rate, 500.0), 1
        return min(datagrams, rate / stride), stride

    def _send_all(self) -> bool:
        """The data. True: ended by the timer, False: by the count."""
        config = self.config
        pace, self._stride = self._pace()
        window = max(2 * self._stride, int(2 * pace * self._stride / self._fragments))  # two seconds of data
        start = time.monotonic()
        deadline = start + config.execution_time if config.execution_time else float("inf")
        sent = 0
        while self._next < config.num_iter:
            now = time.monotonic()
            if now >= deadline:
                return True
            due = start + sent / pace
            if due > now:
                self.pump(min(due, deadline) - now)
                continue
            if now - due > 0.5:
                start = now - sent / pace  # late: go on from here, without a burst
            if self.reliable:
                self._wait_for_room(window)
            samples = min(self._stride, config.num_iter - self._next)
            self._choose_ping(self._next, samples)
            for fragment in range(self._fragments):
                self._to_subscribers(DATA, self._sample(self._next, samples, fragment))
                if fragment % self.BURST == self.BURST - 1:
                    self.pump(self.BURST / pace)
                    if time.monotonic() >= deadline:
                        return True
            sent += self._fragments
            self._next += samples
            if config.latency_test:
                self._wait_for_pong()
        return False

    def _choose_ping(self, first: int, samples: int) -> None:
        """Every latencyCount samples (or batches) publisher 0 asks the next subscriber for an echo."""
        every = self.config.latency_count * self.config.samples_per_batch
        ping = -(-first // every) * every
        if self.config.index == 0 and ping < first + samples:
            self._ponged = []
            self._ping = (ping, self._pings % self.config.peers_wanted, time.monotonic_ns())
            self._pings += 1
            self._unanswered.add(self._ping[2])

    def _sample(self, first: int, samples: int, fragment: int) -> bytes:
        length = self.config.data_len
        ping, subscriber, sent = self._ping
        last = fragment + 1 == self._fragments
        if not (first <= ping < first + samples and last):
            subscriber, sent = -1, 0
        size = samples * length if self._fragments == 1 else min(CHUNK, length - fragment * CHUNK)
        head = DATA_BODY.pack(first, samples, fragment, self._fragments, sent, 0, subscriber, length)
        return head + self._payload[: max(0, size - len(head) - HEAD.size)]

    def _to_subscribers(self, kind: int, body: bytes) -> None:
        """Once for each subscriber, or for all on one interface where they asked for multicast."""
        groups = set()
        for peer in self.peers.values():
            if "Throughput" not in peer.matched:
                continue
            if self.config.multicast and peer.multicast and peer.interface and not peer.base:
                groups.add(peer.interface)
            else:
                self._to_one(kind, body, peer)
        for interface in groups:
            self.send_group(kind, body, (self.config.group, MULTICAST_PORT + self.config.domain), interface)

    def _to_one(self, kind: int, body: bytes, peer: Peer) -> None:
        if kind == DATA and peer.base:
            fields = list(DATA_BODY.unpack_from(body))
            fields[5] = peer.base
            body = DATA_BODY.pack(*fields) + body[DATA_BODY.size :]
        self.send(kind, body, peer.address)

    def _reliable_readers(self) -> list[Peer]:
        return [p for p in self.peers.values() if "Throughput" in p.matched and p.reliable]

    def _wait_for_room(self, window: int) -> None:
        """A reliable writer blocks, whatever the timer says, until its readers have caught up or are gone."""
        while True:
            slow = [p for p in self._reliable_readers() if self._next - p.acknowledged > window]
            if not slow:
                return
            for peer in slow:
                self.send(HEARTBEAT, COUNT_BODY.pack(self._next, 0, 0), peer.address)
            self.pump(0.05)

    def _wait_for_pong(self) -> None:
        if self.reliable:
            while not self._ponged:  # no limit, as with Perftest
                self.pump(0.2, self._ponged)
                if not self._ponged:
                    for peer in self._reliable_readers():
                        self.send(HEARTBEAT, COUNT_BODY.pack(self._next, 0, 0), peer.address)
        else:
            self.pump(0.2, self._ponged)

    def _send_end(self) -> None:
        for peer in self.peers.values():
            peer.end_seen = False
        for _ in range(50):
            if not self._announced:
                return
            self._to_subscribers(END, COUNT_BODY.pack(self._next, 0, 0))
            if not self.reliable:
                self.pump(0.1)
                continue
            limit = time.monotonic() + 0.1
            while time.monotonic() < limit and not all(p.end_seen for p in self._reliable_readers()):
                self.pump(0.002)

    # hearing

    def matched(self, peer: Peer) -> None:
        peer.base = peer.acknowledged = self._next

    def heard(self, kind: int, peer: Peer, body: bytes) -> None:
        if kind == ANNOUNCE:
            sid, finished = SID_BODY.unpack_from(body)
            if finished:
                self._announced.discard(sid)
            else:
                self._announced.add(sid)
        elif kind == ACK:
            expected, fragments, flags = COUNT_BODY.unpack_from(body)
            if (expected, fragments) > (peer.acknowledged, peer.acknowledged_fragments):
                peer.acknowledged, peer.acknowledged_fragments = expected, fragments
                peer.resend_after = 0.0
            peer.end_seen |= bool(flags & 2)
            if flags & 1:
                self._resend(peer)
        elif kind == PONG:
            self._pong(*PONG_BODY.unpack_from(body))

    def _resend(self, peer: Peer) -> None:
        """Go back to what this reader lacks: all since then, up to a limit, to it alone."""
        now = time.monotonic()
        if now < peer.resend_after or not self.reliable:
            return
        peer.resend_after = now + 0.005
        at, fragment = peer.acknowledged, peer.acknowledged_fragments
        for _ in range(self.BURST):
            if at >= self._next:
                return
            samples = min(self._stride, self._next - at)
            self._to_one(DATA, self._sample(at, samples, fragment), peer)
            fragment += 1
            if fragment == self._fragments:
                at, fragment = at + samples, 0
        self.send(HEARTBEAT, COUNT_BODY.pack(self._next, 0, 0), peer.address)  # so it asks for the rest

    def _pong(self, sent: int, length: int) -> None:
        if sent not in self._unanswered:
            return
        self._unanswered.remove(sent)
        latency = (time.monotonic_ns() - sent) // 2
        if not self.lab.nano:
            latency //= 1000
        first = self._print is None
        if self._print is None:
            self._print = self.printer(length)
            self.output.write(self._print.latency_title())
        self._ponged.append(True)
        self._raw.append(latency)
        if first and self.lab.version >= (4, 2):
            return  # these versions drop the first one; earlier ones count it and print no row for it
        self._low = min(self._low, latency) if self._history else latency
        self._high = max(self._high, latency)
        self._history.append(latency)
        self._sum += latency
        self._squares += latency * latency
        if not first and self.config.intervals:
            average, deviation = self._moments()
            cpu = self.cpu_now() if self.config.cpu else 0.0
            self.output.write(self._print.latency_row(latency, average, deviation, self._low, self._high, cpu))
            self.noise()

    def _moments(self) -> tuple[float, float]:
        count = len(self._history)
        average = self._sum / count
        return average, max(0.0, self._squares / count - average * average) ** 0.5

    def _summary(self) -> None:
        if "lowResolutionClock" in self.config.settings.given:
            mean = self._sum // max(1, len(self._history))
            say(f"Average Latency time = {mean} (us)\n", 1)
        if not self._history:
            say(
                "\nNo Pong samples have been received in the Publisher side.\n"
                "If you are interested in latency results, you might need to\n"
                "increase the Pong frequency (using the -latencyCount option).\n"
                "Alternatively you can increase the number of samples sent\n"
                "(-numIter) or the time for the test (-executionTime). If you\n"
                "are sending large data, make sure you set the data size (-datalen)\n"
                "in the Subscriber side.\n\n"
            )
            if self.lab.version >= (4, 3):
                nothing = Latencies(0.0, 0.0, 0, 140187, (0, 0, 0, 0, 0))
                self.output.write(self.printer(0).latency_summary(nothing))
            return
        assert self._print is not None
        ordered = sorted(self._history)
        parts = ((50, 100), (90, 100), (99, 100), (9999, 10000), (999999, 1000000))
        percentiles = tuple(ordered[len(ordered) * part // whole] for part, whole in parts)
        figures = Latencies(*self._moments(), self._low, self._high, percentiles)
        serialize, deserialize = self._serialization()
        cpu = self.cpu_mean() if self.config.cpu else 0.0
        self.output.write(self._print.latency_summary(figures, serialize, deserialize, cpu))
        path = self.config.settings.text("latencyFile")
        if path:
            rows = "".join(f"{i}, {latency}\n" for i, latency in enumerate(self._raw))
            with open(path, "a") as file:  # noqa: PTH123
                file.write(f"Sample Number, Value\n{rows}\n")

    def _serialization(self) -> tuple[float, float]:
        """Microseconds to pack and to unpack a sample here."""
        begin = time.perf_counter_ns()
        packed = self._sample(0, 1, 0)
        middle = time.perf_counter_ns()
        DATA_BODY.unpack_from(packed)
        return (middle - begin) / 1000, (time.perf_counter_ns() - middle) / 1000


# ---------------------------------------------------------------------------------------------- main


def open_output(config: Config, quirks: dict[str, str]) -> Output:
    path = config.settings.text("outputFile")
    left = next((f"{kind}={quirks[kind]}" if quirks[kind] else kind for kind in LEFT if kind in quirks), "")
    if not path:
        return Output(1, left=left)
    try:
        return Output(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), path, left)
    except OSError:
        raise Bad(f"[Error] Problem opening the file: '{path}'\n[Error] Issue initializing printer class.") from None


def misbehave_at_start(quirks: dict[str, str]) -> None:
    """The kinds that happen before anything else. Bad: Perftest's own refusal."""
    if "ignore-term" in quirks:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for kind, fd in (("flood", 2), ("flood-stdout", 1)):
        if kind in quirks:
            line = "PRESWriterHistoryDriver_addWrite:!out of order, resource limit exceeded (flood)\n"
            for _ in range(int(quirks[kind] or 1)):
                say(line * ((1 << 20) // len(line)), fd)
    if "orphan" in quirks:
        leave_orphan(float(quirks["orphan"] or 300))
    if "option-error" in quirks:
        raise Bad("Cannot parse '-noSuchOption', invalid input.")
    if "wont-start" in quirks:
        raise Bad(LICENCE_TEXT.rstrip("\n"))
    if "crash-at-start" in quirks:
        end_by_signal(int(quirks["crash-at-start"] or signal.SIGSEGV))


def main(arguments: list[str], environment: dict[str, str]) -> int:
    """Perftest's main. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Perftest handles no signal; Python would
    lab = Lab(environment)
    helping = "-help" in arguments or "-h" in arguments
    settings, complaints = read_options(arguments, lab.version)
    name = f"{'pub' if 'pub' in settings.given else 'sub'}_"
    name += str(settings.number("pidMultiPubTest" if name == "pub_" else "sidMultiSubTest", 0))
    try:
        quirks = misbehaviours(lab.misbehave, "help" if helping else name, settings, arguments)
    except ValueError as error:
        say(f"{error}\n")
        return 255
    if quirks.get("wont-start") == "loader":
        say(LOADER_TEXT)
        return 127
    say(lab.banner(quirks))
    try:
        if complaints and not helping:
            raise Bad("\n".join(complaints))
        config = Config(settings, lab.version) if not helping else None
        misbehave_at_start(quirks)
        if "exit" in quirks:
            return int(quirks["exit"] or 1)
        if config:
            participate(config, lab, quirks)
        else:
            say(help_text(lab.version), 1)
    except Bad as error:
        say(f"{error}\nTest ended.\n")
        return 255
    say("Test ended.\n")
    return 0


def participate(config: Config, lab: Lab, quirks: dict[str, str]) -> None:
    """One test, from the output file to the end of the participant."""
    output = open_output(config, quirks)
    say(config.describe())
    if "slow-start" in quirks:
        time.sleep(float(quirks["slow-start"] or 5))
    if quirks.get("hang") == "start":
        hang()
    role = Publisher if config.publisher else Subscriber
    participant = role(config, lab, quirks, output)
    participant.run()
    if "hang" in quirks:
        hang()
    participant.bye()
    output.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
