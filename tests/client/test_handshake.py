from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.handshake import explained

FAILED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
SSL = (
    FAILED
    + "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1:SSL routines:OPENSSL_internal:"
)
REFUSED = "the server's certificate is refused: "


@pytest.mark.parametrize(
    ("message", "is_secure", "told"),
    [
        (
            SSL + "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            True,
            REFUSED + "no authority that this client trusts has issued it",
        ),
        (SSL + "CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", True, REFUSED + "it has expired"),
        (
            SSL + "CERTIFICATE_VERIFY_FAILED: certificate is not yet valid: OK",
            True,
            REFUSED + "it is not valid yet",
        ),
        (SSL + "CERTIFICATE_VERIFY_FAILED: something new: OK", True, REFUSED + "something new"),
        (
            FAILED + "Custom verification check failed with error: UNAUTHENTICATED: "
            "Hostname Verification Check failed.",
            True,
            REFUSED + "it is not for the host that was called",
        ),
        (
            FAILED + "Peer name other.test is not in peer certificate",
            True,
            REFUSED + "it is not for the host that was called",
        ),
        (
            SSL + "WRONG_VERSION_NUMBER: Invalid certificate verification context: OK",
            True,
            "the server does not speak TLS, and this client speaks nothing else",
        ),
        (
            FAILED + "Socket closed",
            False,
            "the server closed the connection before it answered: it may speak TLS alone, and this client "
            "does not",
        ),
        (
            FAILED + "recvmsg:Connection reset by peer",
            True,
            "the server closed the connection before it answered: it may let in only clients with a "
            "certificate that it trusts",
        ),
        (FAILED + "connect: Connection refused (111)", True, FAILED + "connect: Connection refused (111)"),
        ("Socket closed", False, "Socket closed"),
    ],
)
def test_why_a_connection_did_not_come_about(message: str, is_secure: bool, told: str) -> None:
    assert explained(message, is_secure=is_secure) == told


@given(st.text(), st.booleans())
def test_any_other_text_is_passed_on(message: str, is_secure: bool) -> None:
    assert explained(message, is_secure=is_secure) == message
