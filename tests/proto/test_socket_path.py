from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_proto import socket_path


@given(st.text("abcä/.: ,%", min_size=1, max_size=120))
def test_a_path_is_read_as_it_is_written_or_refused(path: str) -> None:
    try:
        read = socket_path.parse(f"unix:{path}")
    except ValueError:
        return
    assert read in (path, path.removeprefix("//"))
    assert socket_path.parse(f"unix:{read}") == read


@pytest.mark.parametrize("path", ["", "/", "/run/", "a\0b", "/" + "a" * 107])
def test_what_the_kernel_would_not_take_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        socket_path.parse(f"unix:{path}")
