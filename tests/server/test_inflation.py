from __future__ import annotations

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.errors import InvalidInput, MessageTooLarge
from headrace_server.transport.inflation import beginning, inflate, is_compressed
from headrace_server.transport.messages import parse

LIMIT_BYTES = 1000


@given(st.binary(max_size=LIMIT_BYTES), st.integers(0, 9))
def test_what_is_inflated_is_what_was_compressed(message: bytes, level: int) -> None:
    for compressed in (gzip.compress(message, level), zlib.compress(message, level)):
        assert is_compressed(compressed)
        assert inflate(compressed, LIMIT_BYTES) == message
        assert beginning(compressed) == message


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_comes_is_inflated_within_the_limit_or_refused(head: bytes, tail: bytes) -> None:
    for start in (gzip.compress(tail), zlib.compress(tail)):
        message = start[: len(start) // 2] + head
        with contextlib.suppress(InvalidInput, MessageTooLarge):
            assert len(inflate(message, 50)) <= 50
        assert len(beginning(message)) <= 1 << 16


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_no_request_looks_compressed(model: str, version: str, request_id: str) -> None:
    messages = (
        pb.ModelInferRequest(model_name=model, model_version=version, id=request_id),
        pb.ModelMetadataRequest(name=model, version=version),
        pb.RepositoryModelLoadRequest(repository_name=version, model_name=model),
    )
    for message in messages:
        encoded = message.SerializeToString()
        assert not is_compressed(encoded)
        assert beginning(encoded) is encoded


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_the_limit_is_told_and_so_is_damage(pack: object) -> None:
    assert callable(pack)
    whole = pack(bytes(LIMIT_BYTES))
    assert inflate(whole, LIMIT_BYTES) == bytes(LIMIT_BYTES)
    with pytest.raises(MessageTooLarge, match="larger than max once it is inflated: 999 bytes"):
        inflate(whole, LIMIT_BYTES - 1)
    with pytest.raises(InvalidInput, match="its end is missing"):
        inflate(whole[:-1], LIMIT_BYTES)
    with pytest.raises(InvalidInput, match="cannot be inflated"):
        inflate(whole[:-4] + b"nope", LIMIT_BYTES)


def test_short_messages_are_read_in_either_form() -> None:
    request = pb.ModelMetadataRequest(name="m")
    plain = request.SerializeToString()
    for message in (plain, gzip.compress(plain), zlib.compress(plain)):
        assert parse(pb.ModelMetadataRequest, message) == request
    for message in (bytes((1 << 16) + 1), gzip.compress(bytes((1 << 16) + 1))):
        with pytest.raises(MessageTooLarge, match="65536 bytes"):
            parse(pb.ModelMetadataRequest, message)
