"""RULES.md is what the rules say of themselves, and every finding of theirs is said there."""

from __future__ import annotations

import ast
from pathlib import Path

from autoperfd.core.plan import END_STATUSES
from autoperfd.tools import ddsperf
from autoperfd.tools.judging import PROOFS
from tests.tools.rule_table import TABLE, table

TOOLS = Path(ddsperf.__file__).parent
TOLD_ELSEWHERE = {("crashed", "CRASHED"), ("crashed", "TOO_LARGE")}  # by ended_by_signal, for all tools


def test_the_table_is_fresh() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(PROOFS), "run `make rules`"


def test_every_rule_says_what_it_proves() -> None:
    assert len(PROOFS) > 25
    for proof in PROOFS:
        assert len(proof.proves) > 20 and "|" not in proof.proves, proof.rule
        assert proof.codes and set(proof.codes.values()) <= set(END_STATUSES), proof.rule


def test_every_finding_is_of_a_rule_that_declares_it() -> None:
    """All calls that make a finding name status and code in words: these are the declared ones, and no other."""
    made = set()
    for path in TOOLS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 3:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
            if name in ("found", "Finding") and len(words) == 2:
                made.add((words[0], words[1]))
    declared = {(status, code) for proof in PROOFS for code, status in proof.codes.items()}
    assert len(made) > 25 and made | TOLD_ELSEWHERE == declared | TOLD_ELSEWHERE
