"""The web page: a process of its own, which acts through the same functions as the command line."""
