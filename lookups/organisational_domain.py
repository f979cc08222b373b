"""The organisational domain of a name by the public suffix list: the RFC 7489 mode of DMARC.

Read the list once and keep it: reading costs tens of milliseconds, asking two microseconds.
The file is that of https://publicsuffix.org, which Debian installs as
/usr/share/publicsuffix/public_suffix_list.dat.

Diagnostics: from_file raises ConfigError for a file that can't be read or holds no rule;
the other methods raise nothing, whatever the name is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from msgspec import Struct

from ..errors import ConfigError

DEBIAN_LIST = "/usr/share/publicsuffix/public_suffix_list.dat"

_PRIVATE_BEGINS = "===BEGIN PRIVATE DOMAINS==="


class PublicSuffixList(Struct, frozen=True):
    """The rules, all in lower case and with A-labels, without ``*.`` and ``!``.

    plain are suffixes; below each of wildcards every label is one; exceptions are the names
    that a wildcard does not make one.
    """

    plain: frozenset[str]
    wildcards: frozenset[str]
    exceptions: frozenset[str]

    @classmethod
    def from_file(cls, path: str = DEBIAN_LIST, *, private: bool = True) -> PublicSuffixList:
        """Read the list; private says whether domains of companies (``github.io``) count too. Raises ConfigError."""
        try:
            with open(path, encoding="utf-8") as file:
                rules = cls.from_lines(file, private=private)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(reason or str(error), file=path) from error
        if not rules.plain:
            raise ConfigError("no public suffix in this file", file=path)
        return rules

    @classmethod
    def from_lines(cls, lines: Iterable[str], *, private: bool = True) -> PublicSuffixList:
        """Read rules: the first word of each line that is not empty and no ``//`` comment."""
        plain: set[str] = set()
        wildcards: set[str] = set()
        exceptions: set[str] = set()
        for line in lines:
            if not private and _PRIVATE_BEGINS in line:
                break
            if line.startswith("//") or not line.strip():
                continue
            rule = line.split()[0]
            if rule.startswith("!"):
                if "." not in rule:
                    continue  # what it excepts would have no suffix at all
                exceptions.add(_a_labels(rule[1:]))
            elif rule.startswith("*."):
                wildcards.add(_a_labels(rule[2:]))
            else:
                plain.add(_a_labels(rule))
        return cls(frozenset(plain), frozenset(wildcards), frozenset(exceptions))

    def public_suffix(self, name: str) -> str:
        """Return the public suffix of a name: by the longest rule, without any the last label.

        What is no DNS name (over 253 bytes, an empty label) comes back as it is.
        """
        return self._suffix(_normal(name))

    def _suffix(self, name: str) -> str:
        if len(name) > 253 or ".." in f".{name}.":
            return name
        # An exception prevails however long other rules are (the list's formal algorithm).
        suffix = name
        while suffix:
            parent = suffix.partition(".")[2]
            if suffix in self.exceptions:
                return parent
            suffix = parent
        suffix = name
        while True:
            parent = suffix.partition(".")[2]
            # Top down from the whole name, so the first rule that holds is the longest.
            if suffix in self.plain or (parent and parent in self.wildcards) or not parent:
                return suffix
            suffix = parent

    def organisational_domain(self, name: str) -> str:
        """Return the public suffix with one more label (RFC 7489 section 3.2).

        A name that is itself a public suffix is its own. The result is in lower case, with
        A-labels and without the final dot.
        """
        name = _normal(name)
        suffix = self._suffix(name)
        if name == suffix:
            return name
        head = name[: -len(suffix) - 1]
        return f"{head.rpartition('.')[2]}.{suffix}"


def _normal(name: str) -> str:
    name = name.removesuffix(".")
    return name.lower() if name.isascii() else _a_labels(name)


def _a_labels(name: str) -> str:
    # The list's labels are normalised already: encoding them needs none of IDNA's mappings.
    labels = unicodedata.normalize("NFC", name.lower()).split(".")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in labels)
