"""``python -m respool``: the same as the ``respool`` command."""

from .sidecar.cli import main

main()
