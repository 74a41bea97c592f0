"""RULES.md as text, from the rules as they register themselves: `python -m tests.tools.rule_table` writes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autoperfd.core.plan import END_STATUSES
from autoperfd.tools import TOOLS
from autoperfd.tools.judging import PROOFS, Proof

TABLE = Path(__file__).parents[2] / "RULES.md"
HEAD = """# By which rules an attempt is a success

An attempt is a success when none of these rules fails. Each is a function of its own in `autoperfd/tools`; its findings
have a code, a sentence with the evidence, and an end status. Where several fail, the status that comes first decides:
{order}.
`autoperfctl judge` shows every failed rule. `make proof` counts how much damage to result files they see.
Written by `make rules` from the rules themselves.
"""


def table(proofs: Iterable[Proof]) -> str:
    """The whole of RULES.md."""
    proofs = list(proofs)
    lines = [HEAD.format(order=", ".join(status for status in END_STATUSES if status != "success"))]
    for tool in ("", *TOOLS):
        lines += [f"\n## {tool or 'All tools'}\n", "| rule | what it proves | code | end status |", "|---|---|---|---|"]
        for proof in proofs:
            if proof.tool == tool:
                codes = "<br>".join(f"`{code}`" for code in proof.codes)
                statuses = "<br>".join(proof.codes.values())
                lines.append(f"| {proof.rule.strip('_').replace('_', ' ')} | {proof.proves} | {codes} | {statuses} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(PROOFS), encoding="utf-8")
