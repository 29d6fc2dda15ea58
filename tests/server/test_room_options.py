from __future__ import annotations

from pathlib import Path

import pytest

from headrace_server import room_options
from headrace_server.config import load


def test_paths_are_meant_from_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load({"model_repository": "models:/other", "consul_cacert": "ca.pem"}, {}).config
    repository = room_options.repository_options(config)
    consul = room_options.consul_settings(config)
    assert repository.folders == (tmp_path / "models", Path("/other"))
    assert consul.cacert == str(tmp_path / "ca.pem")
    assert consul.client_cert == "", "what was not given stays so"
