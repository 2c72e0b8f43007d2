"""What the doctor finds, and how it is written down."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_WIDTH = 100
Mark = Literal["ok", "slow", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    mark: "ok"; "slow": training can start but is slower than it could be; "wrong": it cannot; "note": for your
    information. remedy: what to do about it, for slow and wrong.
    """

    mark: Mark
    subject: str
    text: str
    remedy: str = ""


def as_text(title: str | None, findings: Iterable[Finding]) -> str:
    """A block of aligned lines, with or without a title."""
    return "\n".join([*([title] if title else []), *(line for finding in findings for line in _lines(finding))])


def _lines(finding: Finding) -> list[str]:
    text = f"{finding.text}; {finding.remedy}" if finding.remedy else finding.text
    mark = "" if finding.mark == "note" else finding.mark
    head = f"  {mark:5}  {finding.subject:14} "
    parts = [part for line in text.splitlines() for part in textwrap.wrap(line, _WIDTH) or [""]]
    return [head + parts[0], *(" " * len(head) + part for part in parts[1:])]
