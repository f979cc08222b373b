"""The whole sidecar in trouble: name servers that lie, files that vanish, plugins that run wild. For ``make campaign``."""
