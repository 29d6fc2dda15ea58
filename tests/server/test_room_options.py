from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeDriver, present

from headrace_engines.runtime.cuda import pools
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


def test_a_bound_for_a_gpu_that_is_not_there_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pools, "_pools", pools.Pools())
    config = load({"cuda_memory_pool_byte_size": ["0:5", "7:9"]}, {}).config
    with FakeDriver() as driver, present(driver):
        room_options.bound_gpu_memory(config)
    told = "--cuda-memory-pool-byte-size 7:9 bounds nothing: there is no GPU 7; this machine has GPU 0"
    assert [record.getMessage() for record in caplog.records] == [told]
    with present():
        room_options.bound_gpu_memory(config)
    assert "--cuda-memory-pool-byte-size 0:5 bounds nothing: there is no GPU: CUDA shows none" in caplog.text
