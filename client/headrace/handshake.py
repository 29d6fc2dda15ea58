"""Why a connection did not come about, in words that say what to change.

gRPC tells of a handshake what OpenSSL and the socket told it. The texts that it is recognised by are those of
grpcio 1.76 to 1.85; one that is not known is passed on as it is.
"""

from __future__ import annotations

import re
from typing import Final

_NOT_CONNECTED: Final = "failed to connect to all addresses"
_WRONG_NAME: Final = re.compile(
    r"Hostname Verification Check failed|Peer name \S+ is not in peer certificate"
)
_NO_TLS: Final = "WRONG_VERSION_NUMBER"
_HUNG_UP: Final = ("Socket closed", "Connection reset by peer")
_DOUBT: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")
_DOUBTS: Final = {
    "unable to get local issuer certificate": "no authority that this client trusts has issued it",
    "self signed certificate": "no authority that this client trusts has issued it",
    "certificate has expired": "it has expired",
    "certificate is not yet valid": "it is not valid yet",
}
_MAYBE_TLS: Final = "it may speak TLS alone, and this client does not"
_MAYBE_NO_CERTIFICATE: Final = "it may let in only clients with a certificate that it trusts"


def explained(message: str, *, is_secure: bool) -> str:
    """Return a gRPC error's text, or what it means if it tells of a connection that did not come about.

    `is_secure` says whether this end was to speak TLS.
    """
    if not message.startswith(_NOT_CONNECTED):
        return message
    doubt = _DOUBT.search(message)
    if doubt:
        return f"the server's certificate is refused: {_DOUBTS.get(doubt[1], doubt[1])}"
    if _WRONG_NAME.search(message):
        return "the server's certificate is refused: it is not for the host that was called"
    if _NO_TLS in message:
        return "the server does not speak TLS, and this client speaks nothing else"
    if any(end in message for end in _HUNG_UP):
        told = _MAYBE_NO_CERTIFICATE if is_secure else _MAYBE_TLS
        return f"the server closed the connection before it answered: {told}"
    return message
