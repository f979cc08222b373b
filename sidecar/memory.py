"""How much memory a process may take: a processor without measure fails by itself, and takes nobody with it.

Without a limit the kernel's memory killer chooses a victim on the whole machine, Exim perhaps.

Diagnostics: raises nothing; beyond the limit whatever asks for memory gets MemoryError.
"""

from __future__ import annotations

import resource


def limit_memory(mib: int) -> None:
    """Limit this process and its threads to so much private memory (RLIMIT_DATA); a lower limit stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
