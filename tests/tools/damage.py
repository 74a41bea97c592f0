"""Damage to the files of an attempt, by kind: what a verdict must see. Seeded; knows nothing of the reader it tries.

A damage that leaves the same numbers in the same places does not count: `equal` says so by a comparison of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

Files = Mapping[str, bytes]
Damage = Callable[[random.Random, bytes], bytes]
NUMBER = re.compile(rb"\d+(?:\.\d+)?")
PLAIN = re.compile(rb"\d*(?:\.\d*)?")
ROW = re.compile(rb"[ \d.,]*\d[ \d.,]*,[ \d.,]*\n")


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def rows(content: bytes) -> list[int]:
    """The places of the lines that are rows of numbers."""
    return [i for i, line in enumerate(lines(content)) if ROW.fullmatch(line)]


def intervals(content: bytes) -> list[int]:
    """The places of all rows but the summary's."""
    return rows(content)[:-1]


def change(content: bytes, place: int, new: bytes | None) -> bytes:
    """The file with another line in that place; None: without it."""
    kept = lines(content)
    kept[place : place + 1] = [] if new is None else [new]
    return b"".join(kept)


def fields(line: bytes) -> list[bytes]:
    return line.rstrip(b"\n").split(b",")


def put(content: bytes, place: int, column: int, value: bytes) -> bytes:
    """The file with another value in one field, as wide as before if it fits."""
    parts = fields(lines(content)[place])
    parts[column] = value.rjust(len(parts[column]))
    return change(content, place, b",".join(parts) + b"\n")


def any_field(rng: random.Random, content: bytes) -> tuple[int, int, bytes]:
    place = rng.choice(rows(content))
    parts = fields(lines(content)[place])
    column = rng.randrange(len(parts))
    return place, column, parts[column].strip()


# One kind each


def cut_anywhere(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def cut_at_a_line(rng: random.Random, content: bytes) -> bytes:
    return b"".join(lines(content)[: rng.randrange(1, len(lines(content)))])


def cut_at_a_buffer(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content)) // 4096 * 4096]


def beginning_lost(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(content.index(b"Bytes)"), len(content)) :]


def row_dropped(rng: random.Random, content: bytes) -> bytes:
    return change(content, rng.choice(intervals(content)), None)


def rows_dropped(rng: random.Random, content: bytes) -> bytes:
    places = intervals(content)
    first = rng.randrange(len(places) - 1)
    last = min(len(places), first + rng.randrange(2, 12))
    return b"".join(line for i, line in enumerate(lines(content)) if i not in places[first:last])


def row_doubled(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice(intervals(content))
    return change(content, place, lines(content)[place] * 2)


def rows_swapped(rng: random.Random, content: bytes) -> bytes:
    kept, (a, b) = lines(content), rng.sample(intervals(content), 2)
    kept[a], kept[b] = kept[b], kept[a]
    return b"".join(kept)


def rows_shuffled(rng: random.Random, content: bytes) -> bytes:
    kept, places = lines(content), intervals(content)
    for place, line in zip(places, rng.sample([kept[i] for i in places], len(places)), strict=True):
        kept[place] = line
    return b"".join(kept)


def rows_reversed(rng: random.Random, content: bytes) -> bytes:
    kept, places = lines(content), intervals(content)
    for place, line in zip(places, [kept[i] for i in reversed(places)], strict=True):
        kept[place] = line
    return b"".join(kept)


def block_doubled(rng: random.Random, content: bytes) -> bytes:
    places = intervals(content)
    block = b"".join(lines(content)[places[0] : places[-1] + 1])
    return content.replace(block, block * 2)


def blocks_swapped(rng: random.Random, content: bytes) -> bytes:
    kept, last = lines(content), intervals(content)[-1] + 1
    return b"".join([*kept[last:], *kept[:last]])


def summary_lost(rng: random.Random, content: bytes) -> bytes:
    return b"".join(lines(content)[: intervals(content)[-1] + 1])


def summary_row_lost(rng: random.Random, content: bytes) -> bytes:
    return change(content, rows(content)[-1], None)


def appended_again(rng: random.Random, content: bytes) -> bytes:
    return content + content


def header_only(rng: random.Random, content: bytes) -> bytes:
    return b"".join(lines(content)[: rows(content)[0]])


def emptied(rng: random.Random, content: bytes) -> bytes:
    return b""


def columns_titles_lost(rng: random.Random, content: bytes) -> bytes:
    places = [i for i, line in enumerate(lines(content)) if b"(Bytes)," in line]
    return change(content, rng.choice(places), None)


def titles_doubled(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice([i for i, line in enumerate(lines(content)) if b":" in line])
    return change(content, place, lines(content)[place] * 2)


def zero_tail(rng: random.Random, content: bytes) -> bytes:
    """The last rows tell of nothing, and no summary follows: a subscriber that hung."""
    return b"".join(lines(_idle(rng, content))[: intervals(content)[-1] + 1])


def zero_tail_before_summary(rng: random.Random, content: bytes) -> bytes:
    return _idle(rng, content)


def _idle(rng: random.Random, content: bytes) -> bytes:
    kept, places = lines(content), intervals(content)
    first = rng.randrange(len(places) // 2, len(places))
    parts = fields(kept[places[first - 1]])
    for place in places[first:]:
        own = fields(kept[place])
        zero = [parts[0], parts[1], b"0".rjust(len(parts[2])), *parts[3:4], *(b"0.0".rjust(9),), *parts[5:]]
        kept[place] = b",".join(zero if len(own) == 8 else [own[0], b"0", *own[2:]]) + b"\n"
    return b"".join(kept)


def other_length_everywhere(rng: random.Random, content: bytes) -> bytes:
    first = NUMBER.search(lines(content)[rows(content)[0]])
    assert first is not None
    old, new = first[0], rng.choice([b"28", b"64000", b"1024"])
    out = [re.sub(rb"^( *)" + old + rb",", rb"\g<1>" + new + rb",", line) for line in lines(content)]
    return b"".join(out).replace(b"for " + old + b" Bytes", b"for " + new + b" Bytes")


def other_length_once(rng: random.Random, content: bytes) -> bytes:
    return put(content, rng.choice(rows(content)), 0, rng.choice([b"28", b"64000", b"1024"]))


def not_a_number(rng: random.Random, content: bytes) -> bytes:
    place, column, _ = any_field(rng, content)
    return put(content, place, column, rng.choice([b"nan", b"-nan", b"inf", b"NaN", b"1e5", b"#", b""]))


def negative(rng: random.Random, content: bytes) -> bytes:
    place, column, value = any_field(rng, content)
    return put(content, place, column, b"-" + value)


def decimal_commas(rng: random.Random, content: bytes) -> bytes:
    return re.sub(rb"(\d)\.(\d)", rb"\1,\2", content)


def decimal_comma_once(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice([i for i in rows(content) if b"." in lines(content)[i]])
    return change(content, place, lines(content)[place].replace(b".", b",", 1))


def digit_changed(rng: random.Random, content: bytes) -> bytes:
    """Any digit of any field of any row becomes another one."""
    place, column, value = any_field(rng, content)
    at = rng.choice([i for i, c in enumerate(value) if chr(c).isdigit()])
    digit = rng.choice([d for d in b"0123456789" if d != value[at]])
    return put(content, place, column, value[:at] + bytes([digit]) + value[at + 1 :])


def first_digit_changed(rng: random.Random, content: bytes) -> bytes:
    place, column, value = any_field(rng, content)
    digit = rng.choice([d for d in b"123456789" if d != value[0]])
    return put(content, place, column, bytes([digit]) + value[1:])


def digits_transposed(rng: random.Random, content: bytes) -> bytes:
    place, column, value = any_field(rng, content)
    if len(value) < 2:
        return content
    at = rng.randrange(len(value) - 1)
    return put(content, place, column, value[:at] + value[at + 1 : at + 2] + value[at : at + 1] + value[at + 2 :])


def value_doubled(rng: random.Random, content: bytes) -> bytes:
    place, column, value = any_field(rng, content)
    if b"." in value:
        return put(content, place, column, b"%.1f" % (2 * float(value)))
    return put(content, place, column, b"%d" % (2 * int(value)))


def value_zeroed(rng: random.Random, content: bytes) -> bytes:
    place, column, _ = any_field(rng, content)
    return put(content, place, column, b"0")


def field_dropped(rng: random.Random, content: bytes) -> bytes:
    place, column, _ = any_field(rng, content)
    parts = fields(lines(content)[place])
    return change(content, place, b",".join(parts[:column] + parts[column + 1 :]) + b"\n")


def field_doubled(rng: random.Random, content: bytes) -> bytes:
    place, column, value = any_field(rng, content)
    parts = fields(lines(content)[place])
    return change(content, place, b",".join([*parts[:column], value, *parts[column:]]) + b"\n")


def fields_shifted(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice(rows(content))
    parts = fields(lines(content)[place])
    return change(content, place, b",".join([*parts[1:], parts[0]]) + b"\n")


def row_broken_in_two(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice(rows(content))
    line = lines(content)[place]
    at = rng.randrange(1, len(line) - 1)
    return change(content, place, line[:at] + b"\n" + line[at:])


def rows_joined(rng: random.Random, content: bytes) -> bytes:
    place = rng.choice(intervals(content))
    return change(content, place, lines(content)[place].rstrip(b"\n"))


def zero_bytes(rng: random.Random, content: bytes) -> bytes:
    """What a power cut leaves of a file whose size was written and whose data was not."""
    at = rng.randrange(len(content))
    return content[:at] + b"\0" * len(content[at : at + 4096]) + content[at + 4096 :]


def rubbish(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randrange(1, 200)) + content[at:]


def foreign_line(rng: random.Random, content: bytes) -> bytes:
    kept = lines(content)
    return change(content, place := rng.randrange(1, len(kept)), b"warning, 3 of 5 sockets\n" + kept[place])


def merged_streams(rng: random.Random, content: bytes) -> bytes:
    """Standard error went into the same file and cut a row in two."""
    at = sum(len(line) for line in lines(content)[: rng.choice(rows(content))]) + rng.randrange(15, 40)
    return content[:at] + b"Finishing test due to timer...\nTest ended.\n" + content[at:]


ONE_FILE: tuple[Damage, ...] = (
    cut_anywhere, cut_at_a_line, cut_at_a_buffer, beginning_lost, row_dropped, rows_dropped, row_doubled, rows_swapped,
    rows_shuffled, rows_reversed, block_doubled, blocks_swapped, summary_lost, summary_row_lost, appended_again,
    header_only, emptied, columns_titles_lost, titles_doubled, zero_tail, zero_tail_before_summary,
    other_length_everywhere, other_length_once, not_a_number, negative, decimal_commas, decimal_comma_once,
    digit_changed, first_digit_changed, digits_transposed, value_doubled, value_zeroed, field_dropped, field_doubled,
    fields_shifted, row_broken_in_two, rows_joined, zero_bytes, rubbish, foreign_line, merged_streams,
)  # fmt: skip


def file_lost(rng: random.Random, files: Files, other: Files) -> dict[str, bytes]:
    gone = rng.choice(sorted(files))
    return {name: content for name, content in files.items() if name != gone}


def roles_swapped(rng: random.Random, files: Files, other: Files) -> dict[str, bytes]:
    """The publisher's file under a subscriber's name, and the other way round."""
    subscriber = rng.choice([name for name in sorted(files) if name.startswith("sub")])
    return {**files, "pub_0.csv": files[subscriber], subscriber: files["pub_0.csv"]}


def neighbours_file(rng: random.Random, files: Files, other: Files) -> dict[str, bytes]:
    """One participant's file is that of another test."""
    name = rng.choice([name for name in sorted(files) if name in other])
    return {**files, name: other[name]}


def neighbours_appended(rng: random.Random, files: Files, other: Files) -> dict[str, bytes]:
    name = rng.choice([name for name in sorted(files) if name in other])
    return {**files, name: other[name] + files[name]}


def neighbours_summary(rng: random.Random, files: Files, other: Files) -> dict[str, bytes]:
    """The rows of this test and the summary of another one."""
    name = rng.choice([name for name in sorted(files) if name in other])
    return {
        **files,
        name: summary_lost(rng, files[name]) + b"".join(lines(other[name])[intervals(other[name])[-1] + 1 :]),
    }


ALL_FILES: tuple[Callable[[random.Random, Files, Files], dict[str, bytes]], ...] = (
    file_lost, roles_swapped, neighbours_file, neighbours_appended, neighbours_summary,
)  # fmt: skip


def equal(one: Files, other: Files) -> bool:
    """Whether files say the same: the same names, and line by line the same words and numbers, but for blanks."""
    return one.keys() == other.keys() and all(_said(one[name]) == _said(other[name]) for name in one)


def _said(content: bytes) -> list[list[object]]:
    whole = content if content.endswith(b"\n") else content + b"\1"  # a last line that does not end says something else
    return [[_value(f.strip()) for f in line.split(b",")] for line in whole.split(b"\n") if line.strip()]


def _value(field: bytes) -> object:
    try:
        value = Decimal(field.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError):
        return field
    return value if PLAIN.fullmatch(field) else field
