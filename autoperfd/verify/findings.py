"""What a verification found: problems and notes, as sentences with the place they are about. Plain values, bounded."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST = 500  # kept of each kind; the rest is counted


class Unreadable(Exception):
    """Nothing can be verified at all; the text says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Found:
    """One finding. `file`: relative to the experiment's folder; `attempt` 0: no single attempt."""

    sentence: str
    file: str = ""
    test: str = ""
    attempt: int = 0


@dataclass(slots=True)
class Findings:
    """Collects while it is read; `checked` counts what was looked at."""

    problems: list[Found] = field(default_factory=list)
    notes: list[Found] = field(default_factory=list)
    more_problems: int = 0
    more_notes: int = 0
    checked: dict[str, int] = field(default_factory=dict)

    def problem(self, sentence: str, *, file: str = "", test: str = "", attempt: int = 0) -> None:
        """Something is not as it must be."""
        if len(self.problems) < MOST:
            self.problems.append(Found(sentence, file, test, attempt))
        else:
            self.more_problems += 1

    def note(self, sentence: str, *, file: str = "", test: str = "", attempt: int = 0) -> None:
        """Something a person may like to know; nothing is wrong."""
        if len(self.notes) < MOST:
            self.notes.append(Found(sentence, file, test, attempt))
        else:
            self.more_notes += 1

    def count(self, what: str, number: int = 1) -> None:
        """So many more of something were looked at."""
        self.checked[what] = self.checked.get(what, 0) + number

    def add(self, other: Findings) -> None:
        """Take over what another look found."""
        for one in other.problems:
            self.problem(one.sentence, file=one.file, test=one.test, attempt=one.attempt)
        for one in other.notes:
            self.note(one.sentence, file=one.file, test=one.test, attempt=one.attempt)
        self.more_problems += other.more_problems
        self.more_notes += other.more_notes
        for what, number in other.checked.items():
            self.count(what, number)

    @property
    def clean(self) -> bool:
        """Whether there is no problem."""
        return not self.problems
