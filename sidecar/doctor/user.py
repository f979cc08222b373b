"""Looking as the user that the sidecar runs as: whose rights count.

Diagnostics: become() returns what came of it; OSError from the system where it must not go on.
"""

from __future__ import annotations

import os
import pwd
import sys

from .directories import user_name
from .finding import Finding, ok, problem, warning


def become(owner: int, config_file: str) -> Finding:
    """Look as the sidecar's user, for good, where we may and where that user can get at this program."""
    name = user_name(owner)
    if os.geteuid() == owner:
        return ok("user", f"the sidecar runs as {name}, and so does this")
    if os.geteuid() != 0:
        return warning("user", f"run by {user_name(os.geteuid())}; the sidecar runs as {name}", "run this as root")
    hidden = [path for path in (os.path.realpath(sys.executable), __file__) if not _may_read(path, owner)]
    if hidden:
        return problem(
            "user", f"{name}, whom the sidecar runs as, can't get at {hidden[0]}",
            "install respool with a Python that everybody may run (/usr/bin/python3), in /opt/respool for example",
        )  # fmt: skip
    if not _may_read(os.path.abspath(config_file), owner):
        found = f"{name}, whom the sidecar runs as, can't read {config_file}"
        return problem("user", found, f"chgrp it to that user's group and chmod 640 {config_file}")
    _drop(owner)
    return ok("user", f"the sidecar runs as {name}: the rest is looked at as that user")


def _may_read(path: str, owner: int) -> bool:
    """Whether a user could open a file: tried by a child that is that user."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _drop(owner)
            code = 0 if os.access(path, os.R_OK) else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _drop(owner: int) -> None:
    try:
        account = pwd.getpwuid(owner)
    except KeyError:
        # A spool from another machine: the number alone counts.
        os.setgroups(())
    else:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(owner, owner, owner)
