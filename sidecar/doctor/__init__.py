"""``respool doctor``: what has to be so around a sidecar, looked at one by one."""
