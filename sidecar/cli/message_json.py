"""One message as JSON: the fields of ``respool show --json``, on which scripts depend.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from ...spool.directive import Directive
from ...spool.envelope import DSN_DELAY, DSN_FAILURE, DSN_NEVER, DSN_SUCCESS, Envelope, Header, Recipient
from .spool_files import Stored

_NOTIFY: Final = ((DSN_NEVER, "NEVER"), (DSN_SUCCESS, "SUCCESS"), (DSN_FAILURE, "FAILURE"), (DSN_DELAY, "DELAY"))


def text(value: bytes | None) -> str | dict[str, str] | None:
    """The bytes as JSON: a string where they are UTF-8, else ``{"b64": ...}``."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def notify_words(dsn_flags: int) -> list[str]:
    """The NOTIFY values of a recipient (RFC 3461 4.1)."""
    return [word for flag, word in _NOTIFY if dsn_flags & flag]


def message_document(stored: Stored) -> dict[str, Any]:
    """Everything that ``show --json`` prints of a message in a spool."""
    envelope = stored.envelope
    variables = {kind: _variables(envelope, kind) for kind in ("acl_m", "acl_c")}
    return {
        "id": str(envelope.id),
        "id_format": "long" if envelope.id.is_long else "short",
        "sender": text(envelope.sender),
        "received_time": envelope.received_time,
        "received_usec": envelope.received_usec,
        "warning_count": envelope.warning_count,
        "user": {"login": text(envelope.login), "uid": envelope.uid, "gid": envelope.gid},
        "host_address": text(envelope.host_address),
        "host_port": envelope.host_port,
        "host_name": text(envelope.host_name),
        "helo_name": text(envelope.helo_name),
        "host_auth": text(envelope.host_auth),
        "interface_address": text(envelope.interface_address),
        "interface_port": envelope.interface_port,
        "received_protocol": text(envelope.received_protocol),
        "ident": text(envelope.ident),
        "auth_id": text(envelope.auth_id),
        "auth_sender": text(envelope.auth_sender),
        "local": envelope.is_local,
        "recipients": [_recipient(envelope, recipient) for recipient in envelope.recipients],
        "non_recipients": [text(node.name) for node in envelope.tree],
        "tls": {
            "cipher": text(envelope.tls_cipher),
            "version": text(envelope.tls_ver),
            "peerdn": text(envelope.tls_peerdn),
            "sni": text(envelope.tls_sni),
            "certificate_verified": envelope.tls_is_certificate_verified,
            "ocsp": envelope.tls_ocsp,
            "resumption": envelope.tls_resumption,
            "peercert": text(envelope.tls_peercert),
            "ourcert": text(envelope.tls_ourcert),
        },
        **variables,
        "frozen": envelope.is_frozen,
        "frozen_since": envelope.frozen_since,
        "first_delivery": envelope.is_first_delivery,
        "smtputf8": envelope.is_smtputf8,
        "dsn_envid": text(envelope.dsn_envid),
        "dsn_ret": {1: "FULL", 2: "HDRS"}.get(envelope.dsn_ret),
        "wireformat": envelope.is_wireformat,
        "body_linecount": envelope.body_linecount,
        "body_zerocount": envelope.body_zerocount,
        "max_received_linelength": envelope.max_received_linelength,
        "body_offset": envelope.id.body_offset,
        "body_size": stored.body_size,
        "message_size": envelope.message_size(stored.body_size),
        "headers": headers_document(envelope.headers),
        "directives": [_directive(directive) for directive in envelope.directives],
    }


def eml_document(headers: tuple[Header, ...], body: bytes) -> dict[str, Any]:
    """What ``show --json`` prints of a message without an envelope."""
    return {
        "id": None,
        "headers": headers_document(headers),
        "body_size": len(body),
        "message_size": sum(len(header.raw) for header in headers) + len(body) + 1,
    }


def headers_document(headers: tuple[Header, ...]) -> list[dict[str, Any]]:
    """Flag, name and value of each record; value is all that follows the colon, without the last line end."""
    return [{"flag": header.flag, "name": text(header.name), "value": text(header.value)} for header in headers]


def _recipient(envelope: Envelope, recipient: Recipient) -> dict[str, Any]:
    return {
        "address": text(recipient.address),
        "delivered": envelope.is_delivered(recipient),
        "orcpt": text(recipient.orcpt or None),
        "dsn_notify": notify_words(recipient.dsn_flags),
        "dsn_flags": recipient.dsn_flags,
        "errors_to": text(recipient.errors_to or None),
        "parent": recipient.parent if recipient.parent >= 0 else None,
    }


def _variables(envelope: Envelope, kind: str) -> dict[str, Any]:
    return {name: text(value) for name, value in envelope.variables.items() if name.startswith(kind)}


def _directive(directive: Directive) -> list[Any]:
    name = directive.variable if directive.variable is not None else text(directive.name)
    return [name, text(directive.value), directive.tainted, text(directive.quoter)]
