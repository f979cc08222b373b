"""respool: the public names for plugin authors."""
