"""The start of autoperfctl: answers `status` at little more than the price of starting Python, imports the rest late.

Exit statuses: 0 fine, 1 a problem was found, 2 usage, 3 the daemon is not running. One thread.
"""

from __future__ import annotations

import os
import sys

RUNTIME = "/run/autoperf"


def main(words: list[str] | None = None) -> int:
    """Carry out the command line (`sys.argv` when None) and return its exit status."""
    words = sys.argv[1:] if words is None else words
    try:
        status = _quick_status(words)
        if status is None:
            from autoperfd.ctl.commands import run

            status = run(words)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _quick_status(words: list[str]) -> int | None:
    """`status` and `status --json` from a running daemon; None: not that, or not that simple."""
    if words not in (["status"], ["status", "--json"]):
        return None
    from autoperfd.ctl import client, terminal

    given, instance = os.environ.get("AUTOPERF_RUNTIME_DIR"), os.environ.get("AUTOPERF_INSTANCE")
    if instance and not given and "/" in instance:  # no name of one, which the long way tells
        return None
    usual = f"{RUNTIME}@{instance}" if instance else RUNTIME
    try:
        reply = client.ask(given or usual, "status", terminal.wide())
    except TimeoutError:  # once is enough to wait
        from autoperfd.ctl import down
        from autoperfd.ctl.places import places

        where = places(None, None)
        return down.when_hung(where).tell(as_json=len(words) == 2)
    except (OSError, ValueError):  # the long way finds out more: another place, or what is remembered
        return None
    return terminal.print_reply(reply, as_json=len(words) == 2)


if __name__ == "__main__":
    sys.exit(main())
