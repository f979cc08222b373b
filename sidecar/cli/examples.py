"""Examples of every command: in its help, its manual page and docs/command-line.md.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from typing import Final

_C: Final = "-c /etc/respool/respool.toml"

#: Words that call the command -> what is wanted, and how to say it.
EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "auth": (
        ("what respool makes of a message in Exim's spool", "auth /var/spool/exim4/input/1tAbCd-000000001Xy-0abc-H"),
        ("a saved mail, and who delivered it", "auth --ip 192.0.2.1 --helo mx.example.net mail.eml"),
    ),
    "batch": (
        ("what would become of an archive", f"batch --dry-run {_C} /srv/archive"),
        ("reprocess it, and go on after an interruption", f"batch --resume {_C} /srv/archive /srv/new"),
    ),
    "check": (("whether Exim would read all of an export", "check /var/spool/exim4/respool/export"),),
    "completion": (
        ("for all users of this machine", "completion bash > /usr/share/bash-completion/completions/respool"),
        ("for this shell alone", 'completion zsh > ~/.zfunc/_respool'),
    ),
    "config check": (("after every change", f"config check {_C}"),),
    "config example": (("begin a configuration", "config example > /etc/respool/respool.toml"),),
    "deferred list": (("what waits, until when and why", f"deferred list {_C}"),),
    "deferred retry": (("all of it now", f"deferred retry {_C} --all"),),
    "demo": (("and keep the result to look at", "demo --dir /tmp/respool-demo"),),
    "dmarc check": (("why mail from there passes or fails", "dmarc check example.org"),),
    "dmarc history rotate": (("for opendmarc-import", "dmarc history rotate /var/lib/respool/dmarc.dat"),),
    "dmarc history show": (("what was recorded", "dmarc history show --json /var/lib/respool/dmarc.dat"),),
    "doctor": (
        ("before the first start, and whenever something is odd", f"doctor {_C}"),
        ("for monitoring", f"doctor {_C} --offline --json"),
    ),
    "exim-config": (("write the parts to include", f"exim-config {_C} --write /etc/respool/exim"),),
    "held drop": (("a message that nobody wants", f"held drop {_C} 1tAbCd-000000001Xy-0abc"),),
    "held list": (("what waits for a person, and why", f"held list {_C}"),),
    "held release": (
        ("process it again, without that hold", f"held release {_C} 1tAbCd-000000001Xy-0abc"),
        ("let all go untouched", f"held release {_C} --all --as-is"),
    ),
    "held show": (("look before you decide", f"held show {_C} 1tAbCd-000000001Xy-0abc"),),
    "ledger list": (("which export owns whom of a message", f"ledger list {_C} 1tAbCd-000000001Xy-0abc"),),
    "list": (("what Exim has queued, as mailq shows it", "list /var/spool/exim4"),),
    "lookup": (("as Exim would ask", "lookup partial-lmdb /etc/respool/routes.mdb mail.example.org"),),
    "plugin list": (("what a configuration may use, and what is broken", "plugin list"),),
    "plugin new": (("begin one: code, settings, tests that pass", "plugin new my-note"),),
    "plugin test": (
        ("what it does to sample messages, and whether it keeps the contract",
         "plugin test ./note.py:Note --settings 'header = \"X-Note\"'"),
    ),
    "run": (
        ("as a service does", f"run {_C}"),
        ("what is there now, saying what each processor did", f"run {_C} --once --trace"),
    ),
    "seal": (
        ("the set that arc-seal would add",
         "seal --domain example.org --selector s1 --key /etc/respool/s1.pem --authserv-id mx.example.org mail.eml"),
    ),
    "show": (
        ("envelope, variables and headers", "show /var/spool/exim4/input/1tAbCd-000000001Xy-0abc-H"),
        ("the message itself", "show --raw /var/spool/exim4/input/1tAbCd-000000001Xy-0abc-H"),
    ),
    "srs forward": (
        ("the sender of forwarded mail",
         "srs forward --secret-file /etc/respool/srs --domain example.org user@example.net"),
    ),
    "srs reverse": (
        ("whom a bounce is for",
         "srs reverse --secret-file /etc/respool/srs SRS0=abcd=Qr=example.net=user@example.org"),
    ),
    "status": (
        ("at a glance, and staying", f"status {_C} --watch"),
        ("for a textfile collector", f"status {_C} --prometheus"),
    ),
    "table build": (
        ("from Exim's lsearch form, checked",
         "table build --check route --group Debian-exim routes.txt /etc/respool/routes.mdb"),
    ),
    "table dump": (("what is in it", "table dump /etc/respool/routes.mdb"),),
    "web": (("the page, for those whom [web] names", f"web {_C}"), ("a line for password_file", "web --hash alice")),
}  # fmt: skip


def epilog(words: str) -> str:
    """The examples of a command as click shows them below its options; "" where there are none."""
    lines = [line for what, how in EXAMPLES.get(words, ()) for line in (f"  # {what}", f"  respool {how}")]
    return "\n".join(["\b", "Examples:", *lines]) if lines else ""
