"""Knows by which rules Perftest's data files are no proof of a success: what each must hold, and all together.

Each rule names one way in which a file is no proof, or is silent. Pure; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import itemgetter

from autoperfd.core.plan import Finding
from autoperfd.tools import parse_perftest
from autoperfd.tools.datafile import DataFile, Row
from autoperfd.tools.judging import asked, proves
from autoperfd.tools.perftest_left import Attempt, Left, num_iter

MISSING_ROWS = 10  # a healthy subscriber's file has 1 to 6 rows fewer than the test has seconds
SAME_RELIABLE = 0.98  # of two subscribers' samples where nothing may be lost: real tests had equal numbers
SAME_COUNT = 0.9  # of two subscribers' samples, received and lost; the end of a test reaches them at different times
DEFAULT_NUM_ITER = 100_000_000  # samples after which a publisher stops that was not told otherwise
ANSWERS_SPARE = 10  # latencies more than the samples told of can have caused: the first were sent before a match


@proves("perftest", MISSING_FILE="no-data")
def present(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """Every participant that measures left its data file."""
    if data.present:
        return None
    return one.found("no-data", "MISSING_FILE", f"{one.name} left no {one.file}")


@proves("perftest", EMPTY_FILE="no-data", NO_PONGS="no-data", NO_ROWS="no-data")
def filled(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """There are measured rows: an empty file, titles alone and a summary of nothing are no data."""
    if data.rows or not data.present:
        return None
    if data.size == 0:
        if one.evidence.finished and one.participant.role == "pub":
            return one.found("no-data", "NO_PONGS", f"{one.file} is empty: no latency sample was ever answered")
        return one.found("no-data", "EMPTY_FILE", f"{one.file} of {one.name} is empty")
    if data.summaries and data.summaries[0]["length"] == 0:
        return one.found("no-data", "NO_PONGS", f"{one.file} sums up nothing: no latency sample was ever answered")
    return one.found("no-data", "NO_ROWS", f"{one.file} of {one.name} has no measured row")


@proves("perftest", LEGACY_FORMAT="bad-data", WRONG_FORMAT="bad-data")
def right_format(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """The file is CSV with titles, which is what the command line asked for. Old data may have any format."""
    if not attempt.recorded or data.format in ("", "CSV", "latency file"):
        return None
    if data.format == "text":
        reason = f"{one.file} is in the text format of Perftest 3.0 or older; 3.1 or later is needed"
        return one.found("bad-data", "LEGACY_FORMAT", reason, machine=True)
    return one.found("bad-data", "WRONG_FORMAT", f"{one.file} is {data.format}, which nobody asked for")


@proves("perftest", TRUNCATED="truncated", TOO_LARGE="truncated", NO_SUMMARY="no-summary")
def whole(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """The last line ends and the summary is there.

    Only a subscriber that was ended because its publishers had ended may lack both: what a kill loses of its
    file is younger than the grace time, and if its last whole row is idle, no measured row is lost.
    """
    if not data.present or data.size == 0:
        return None
    if data.too_large:
        return one.found("truncated", "TOO_LARGE", f"{one.file} has more than {parse_perftest.MAX_FILE} bytes")
    if one.hung or (one.ended_by("grace") and data.summaries):
        reason = f"{one.name} never noticed that its publishers had ended: data complete, summary missing"
        return one.found("no-summary", "NO_SUMMARY", reason)
    if data.cut:
        return one.found("truncated", "TRUNCATED", f"the last line of {one.file} is cut")
    if data.rows and not data.summaries and not data.bad_line:  # a spoilt summary is not a missing one
        return one.found("truncated", "TRUNCATED", f"{one.file} ends without its summary")
    return None


@proves("perftest", TOO_FEW_ROWS="truncated")
def long_enough(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """A subscriber writes a row a second from its first data to the end: fewer are not the whole test."""
    missing = attempt.plan.duration_secs - data.rows
    if data.rows and data.kinds == {"throughput"} and missing > MISSING_ROWS:
        reason = f"{one.file} has {data.rows} rows of one second for a test of {attempt.plan.duration_secs} s"
        return one.found("truncated", "TOO_FEW_ROWS", reason)
    return None


@proves("perftest", TOO_MANY_ROWS="bad-data")
def not_too_long(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """A subscriber has no more rows than seconds: of its life by the launcher's clock, else of the test and a tenth."""
    secs, record = attempt.plan.duration_secs, one.evidence.record
    lived = record.elapsed if record is not None else None
    if data.kinds != {"throughput"} or not secs:
        return None
    if lived is not None and data.rows > lived + 2:
        reason = f"{one.file} has {data.rows} rows of one second of a participant that lived for {lived:.0f} s"
        return one.found("bad-data", "TOO_MANY_ROWS", reason)
    busy = data.rows - data.idle_rows
    if lived is None and busy > 1.1 * secs + MISSING_ROWS:
        reason = f"{one.file} has {busy} rows of one second in which data came, for a test of {secs} s"
        return one.found("bad-data", "TOO_MANY_ROWS", reason)
    return None


@proves("perftest", APPENDED="bad-data")
def one_result(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """There is one block of rows and one summary: more are several results appended to one file, or a scan."""
    if data.headers > 1 or len(data.summaries) > 1:
        return one.found("bad-data", "APPENDED", f"{one.file} holds more than one result")
    return None


@proves("perftest", WRONG_KIND="bad-data")
def right_kind(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """A publisher writes latencies, a subscriber throughput."""
    kind = "latency" if one.participant.role == "pub" else "throughput"
    if data.kinds - {kind}:
        return one.found("bad-data", "WRONG_KIND", f"{one.file} does not hold {kind} only")
    return None


@proves("perftest", WRONG_LENGTH="bad-data")
def right_length(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """Titles, every row and the summary are about samples of the length that was asked for, or at least of one."""
    length = asked(attempt.plan, "datalen_bytes")
    others = data.lengths - {length}
    if not data.rows or not others or (length is None and len(others) == 1):
        return None
    if length is None:
        reason = f"{one.file} is about samples of {len(others)} lengths: {', '.join(map(str, sorted(others)[:4]))}"
    else:
        reason = f"{one.file} is about samples of {min(others)} bytes, not {length}"
    return one.found("bad-data", "WRONG_LENGTH", reason)


@proves("perftest", BAD_DATA="bad-data", FOREIGN_TEXT="bad-data")
def clean(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """Every row has its fields, all numbers, and totals only grow; nobody else's text is in Perftest's own file.

    Where the data is standard output, the middleware's messages stand between the rows by right.
    """
    if data.bad_line:
        reason = f"line {data.bad_line} of {one.file} is no row: {data.bad_text}"
        return one.found("bad-data", "BAD_DATA", reason)
    if data.foreign_lines and one.participant.files and data.format != "text":
        reason = f"line {data.foreign_line} of {one.file} is not Perftest's: {data.foreign_text}"
        return one.found("bad-data", "FOREIGN_TEXT", reason)
    return None


@proves("perftest", MISFIT="bad-data")
def adds_up(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """Averages, deviations, extremes, percentiles, rates and percentages are those of the rows, the summary too."""
    wrong = data.first("MISFIT")
    if wrong is None or data.bad_line:  # a spoilt row leaves sums wrong that follow
        return None
    return one.found("bad-data", "MISFIT", f"line {wrong.line} of {one.file} does not fit: {wrong.text}")


@proves("perftest", ROW_MISSING="bad-data")
def no_row_is_gone(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """In a file that keeps time no row's total grows by what several rows have, as where some between are gone."""
    wrong = data.first("ROW_MISSING")
    if wrong is None:
        return None
    return one.found("bad-data", "ROW_MISSING", f"line {wrong.line} of {one.file}: {wrong.text}")


@proves("perftest", NUM_ITER_REACHED="early-exit", TOO_MANY_SAMPLES="bad-data")
def within_num_iter(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """The publishers were not ended by the default cap of 10^8 samples each, nor sent more than -numIter allows."""
    if data.kinds != {"throughput"} or not data.summaries or not attempt.plan.duration_secs:
        return None
    publishers = int(asked(attempt.plan, "pub_count") or 1)
    sent = _sent(data.summaries[0])
    if attempt.recorded:
        most = publishers * num_iter(dict(attempt.plan.settings))
        if sent > most:
            reason = f"{one.file} tells of {sent:.0f} samples of publishers that may send {most}"
            return one.found("bad-data", "TOO_MANY_SAMPLES", reason)
    elif sent == publishers * DEFAULT_NUM_ITER and long_enough(attempt, one, data):
        reason = f"{one.file} tells of exactly {sent:.0f} samples: {publishers} times the default of -numIter"
        return one.found("early-exit", "NUM_ITER_REACHED", reason)
    return None


DATA_RULES = (
    present,
    filled,
    right_format,
    whole,
    long_enough,
    not_too_long,
    one_result,
    right_kind,
    right_length,
    clean,
    no_row_is_gone,
    adds_up,
    within_num_iter,
)


# All files together


@proves("perftest", COUNTS_DISAGREE="bad-data")
def subscribers_agree(attempt: Attempt) -> Iterator[Finding]:
    """Every subscriber is sent every sample: what each received and lost is equally much, but for the test's ends."""
    same = SAME_COUNT if asked(attempt.plan, "use_reliable") is False else SAME_RELIABLE
    counts = [(_sent(row), one) for row, one in _throughputs(attempt)]
    if not counts:
        return
    (fewest, least), (most, other) = min(counts, key=itemgetter(0)), max(counts, key=itemgetter(0))
    if fewest < most * same:
        reason = f"{least.name} tells of {fewest:.0f} samples and {other.name} of {most:.0f}, though all get the same"
        yield least.found("bad-data", "COUNTS_DISAGREE", reason)


@proves("perftest", ANSWERS_DISAGREE="bad-data")
def answers_fit(attempt: Attempt) -> Iterator[Finding]:
    """Publisher 0 has no more latencies than one in latency_count of the samples that the subscribers tell of."""
    settings = dict(attempt.plan.settings)
    count = 1 if settings.get("latency_test") else settings.get("latency_count")
    publisher = next((one for one in attempt.left if one.participant.role == "pub"), None)
    sent = max((_sent(row) for row, _ in _throughputs(attempt)), default=0.0)
    if not count or not sent or publisher is None or publisher.data is None:
        return
    data = publisher.data
    if data.kinds != {"latency"} or not data.rows or not data.summaries:
        return
    most = math.ceil(sent / count)
    if data.rows > 1.02 * most + ANSWERS_SPARE:
        reason = f"{publisher.file} holds {data.rows} latencies, though {sent:.0f} samples have {most} answers at most"
        yield publisher.found("bad-data", "ANSWERS_DISAGREE", reason)


TOGETHER_RULES = (subscribers_agree, answers_fit)


def _throughputs(attempt: Attempt) -> Iterator[tuple[Row, Left]]:
    """What each subscriber that has a summary says of the whole test."""
    for one in attempt.left:
        if one.data is not None and one.data.kinds == {"throughput"} and one.data.summaries:
            yield one.data.summaries[0], one


def _sent(row: Row) -> float:
    return row["total samples"] + row["lost samples"]
