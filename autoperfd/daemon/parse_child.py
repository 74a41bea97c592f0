"""Parses TOML from standard input to JSON on standard output, within limits it puts on itself before it reads.

A program of its own, started by daemon/parse.py as `python -I -S -c PROGRAM PATH-OF-TOMLI CPU-SECS BYTES`:
a valid file of 64 KB can take a minute and a few KB can exhaust the stack, and neither may touch the daemon.
Answers {"document": …} or {"error": [line, column, why]}; every other end is for the parent to put into words.
It imports nothing of autoperfd, so that it starts in milliseconds, and reads no file but Python's own.
"""

import resource
import sys


def limit(kind: int, value: int) -> None:
    """Lower one limit, also where it is lower already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def main() -> int:
    """Parse; 0 when there is an answer."""
    path, cpu_secs, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, cpu_secs)
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_FSIZE, 0)  # it writes to a pipe and to nothing else
    sys.path.insert(0, path)
    import json

    import tomli

    answer: dict[str, object]
    try:
        document = tomli.loads(sys.stdin.buffer.read().decode())
        # Dates have no JSON; a key that no TOML file means marks them, to be named in a message.
        words = json.dumps({"document": document}, default=lambda value: {"\0": str(value)})
    except tomli.TOMLDecodeError as error:
        answer = {"error": [getattr(error, "lineno", 0), getattr(error, "colno", 0), getattr(error, "msg", str(error))]}
        words = json.dumps(answer)
    except RecursionError:
        words = json.dumps({"error": [0, 0, "it is nested too deeply"]})
    except MemoryError:
        words = json.dumps({"error": [0, 0, "it needs too much memory to read"]})
    except ValueError as error:
        words = json.dumps({"error": [0, 0, str(error)]})
    sys.stdout.write(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
