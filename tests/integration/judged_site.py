"""Plain directories, a processor that judges by the subject, and a configuration of both."""

from __future__ import annotations

from pathlib import Path

JUDGE = '''
"""Holds, defers or lets go, as the subject says."""
from respool import Context, Message, Processor, ProcessorConfig, Verdict, defer, hold, proceed

class Config(ProcessorConfig):
    """Nothing to set."""

class Judge(Processor[Config]):
    """See above."""
    phase = "verify"

    def process(self, message, context):
        subject = b"".join(header.value for header in message.headers if header.name == b"Subject")
        if b"hold" in subject:
            return hold("it says <b>hold</b>")
        if b"defer" in subject and context.attempt == 1:
            return defer("later", retry_after=3600)
        return proceed()
'''


def set_up(directory: Path, *, judge: str = JUDGE, workers: int = 1, top: str = "", tables: str = "") -> Path:
    """Make ``source``, ``target`` and ``state`` below directory; the configuration's path.

    top are settings before the first table, tables whole tables.
    """
    for name in ("source", "target", "state"):
        (directory / name).mkdir(mode=0o750)
    (directory / "judge.py").write_text(judge)
    (directory / "judge.py").chmod(0o644)
    (directory / "dns.zone").write_text("")
    configuration = directory / "respool.toml"
    configuration.write_text(f"""
hostname = "mx.example.org"
state_directory = "{directory}/state"
workers = {workers}
{top}
[source]
kind = "directory"
directory = "{directory}/source"
[requeue]
kind = "directory"
directory = "{directory}/target"
[dns]
zone_file = "{directory}/dns.zone"
{tables}
[[processor]]
use = "{directory}/judge.py:Judge"
""")
    return configuration
