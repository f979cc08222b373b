"""What a processor said of a message, on one line.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from typing import Final

from rich.text import Text

from ..retrace import StepShown
from . import terminal

RESULT_STYLES: Final = {
    "pass": "green",
    "none": "dim",
    "fail": "bold red",
    "softfail": "yellow",
    "temperror": "magenta",
    "permerror": "red",
}
_LABEL_WIDTH: Final = 33


def step_line(step: StepShown) -> Text:
    """Its name, its results, its verdict where that is not to go on, its reason."""
    label = f"{step.processor} (part {step.part})" if step.part else step.processor
    line = Text().append(f"  {terminal.escape(label):<{_LABEL_WIDTH}}", "cyan")
    line.append_text(_said(step))
    line.rstrip()
    return line


def _said(step: StepShown) -> Text:
    text = Text()
    for word in step.results:
        method, _, result = word.partition("=")
        text.append(f"{method}=").append(result, RESULT_STYLES.get(result, "")).append("  ")
    if step.verdict != "proceed":
        text.append(f"{step.verdict} ", "bold yellow")
    text.append_text(terminal.plain(step.reason))
    if not step.changes:
        text.append("" if text.plain or step.parts else "nothing to change", "dim")
    text.rstrip()
    return text
