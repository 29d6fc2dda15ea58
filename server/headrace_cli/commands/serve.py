"""`headrace serve`: its options are the fields of the server's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headrace_cli.failure import ExitCode, needs
from headrace_cli.server_options import SECRETS_EPILOG, configured, server_options
from headrace_server.config import prepare_grpc


@click.command(name="serve", epilog=SECRETS_EPILOG)
@click.option("--show-config", is_flag=True, help="Show each setting and where it comes from, and end.")
@server_options
def command(show_config: bool, file: Path | None, **flags: Any) -> int:
    """Serve a folder of models over gRPC.

    Models stand in the folder as MODEL/VERSION/model.onnx, or model.plan for TensorRT, or model.py with
    --allow-python-models, or as `headrace build` wrote them. When all are loaded and warmed up, one JSON
    line on stdout tells the address. SIGTERM or Ctrl-C drains and stops; a later one stops at once.

    \b
    Examples:
      headrace serve --model-repository models
      headrace serve --model-repository models --grpc-port 0
      headrace serve --model-repository models --host 0.0.0.0 --advertise 10.0.0.7 --consul
      HEADRACE_LOG_FORMAT=json headrace serve --config headrace.toml
    """
    loaded = configured(flags, file)
    if show_config:
        from headrace_cli import settings  # with it come libraries that neither the help nor a server needs

        settings.show(loaded)
        return ExitCode.OK
    prepare_grpc()
    with needs("cpu"):
        from headrace_server import app
    return app.run(loaded)
