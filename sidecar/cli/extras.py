"""Commands that need more than the base installation say what.

Diagnostics: need() raises ConfigError naming the extra and the command that installs it.
"""

from __future__ import annotations

import importlib.util

from ...errors import ConfigError


def need(extra: str, *modules: str) -> None:
    """Raise ConfigError unless the modules of an extra are installed."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        raise ConfigError(
            f"this needs {' and '.join(absent)}, which the extra [{extra}] brings: pip install 'respool[{extra}]'"
        )
