"""Parses TOML from standard input to JSON on standard output, within limits it puts on itself before it reads.

A program of its own, started by daemon/parse.py as `python -I -S -c PROGRAM CPU-SECS BYTES`. The first line of its
input is JSON, the source of tomli's modules by name; what follows is the TOML.
a valid file of 64 KB can take a minute and a few KB can exhaust the stack, and neither may touch the daemon.
Answers {"document": …} or {"error": [line, column, why]}; every other end is for the parent to put into words.
It imports nothing of autoperfd, so that it starts in milliseconds, and reads no file but Python's own.
"""

import json
import resource
import sys
import types


def limit(kind: int, value: int) -> None:
    """Lower one limit, also where it is lower already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def load(sources: dict[str, str]) -> types.ModuleType:
    """The package tomli, made of its sources."""
    package = sys.modules["tomli"] = types.ModuleType("tomli")
    package.__path__ = []
    for name, source in sources.items():
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__package__ = "tomli"
        exec(compile(source, name, "exec"), module.__dict__)
    return package


def main() -> int:
    """Parse; 0 when there is an answer."""
    cpu_secs, memory = int(sys.argv[1]), int(sys.argv[2])
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, cpu_secs)
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_FSIZE, 0)  # it writes to a pipe and to nothing else
    tomli = load(json.loads(sys.stdin.buffer.readline()))
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
