"""The command's entry: finds the command that was typed, and turns failures into one line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from headrace_cli import standard_streams
from headrace_cli.failure import CommandError, ExitCode, told
from headrace_proto import __version__

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "Build, serve, find and stream a real model, and check every step.",
    "build": "Turn a trained model into artefacts that can be served.",
    "export": "Write a trained model as ONNX or PMML.",
    "store": "List, check or remove what builds have left on this machine.",
    "inspect": "Show a model's tensors, layers, artefacts and measurements.",
    "check": "Find everything that is wrong with folders of models.",
    "serve": "Serve a folder of models over gRPC.",
    "call": "Ask a model once.",
    "stream": "Ask a model many times over one stream.",
    "services": "List the instances of a service that Consul knows.",
}

EPILOG = """\b
Exit codes:
  0    done
  1    the work failed, or a check did not hold
  2    the command line is wrong, or this installation does not support it
  75   serve: a GPU was lost; begun anew, a server may find it well
  130  interrupted
  143  stopped by SIGTERM
"""


class LazyGroup(click.Group):
    """Imports a command's module only when it is typed, so that `headrace --help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which somebody new meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"headrace_cli.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with --debug a failure shows where it came from."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception:
            if ctx.params["debug"]:
                traceback.print_exc()
            raise


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="headrace %(version)s")
@click.option("--debug", is_flag=True, envvar="HEADRACE_DEBUG", help="Show the traceback of a failure.")
def cli(debug: bool) -> None:
    """Serve trained models over gRPC: quantised, batched, found through Consul.

    \b
    Start here:
      headrace demo                                   see all of it at work
      headrace build digits --name digits --into models
      headrace serve --model-repository models
      headrace call 127.0.0.1:8001 digits --zeros
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    standard_streams.prepare()
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; failures are one line on stderr."""
    try:
        outcome = cli.main(args=arguments, prog_name="headrace", standalone_mode=False)
        sys.stdout.flush()
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.UsageError as error:
        hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        return _fail(error.format_message() + hint, ExitCode.USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), ExitCode.FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        standard_streams.give_up_stdout()  # whoever read it has gone
        return ExitCode.FAILED
    except Exception as error:
        return _fail(_unforeseen(error), ExitCode.FAILED)
    return outcome if isinstance(outcome, int) else ExitCode.OK


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        if error.filename == standard_streams.STDOUT:
            standard_streams.give_up_stdout()
        return told(error)
    return f"unexpected {type(error).__name__}: {error} (headrace --debug shows where)"


def _fail(message: str, exit_code: ExitCode) -> int:
    line = " ".join(message.split())
    click.echo(f"headrace: error: {line}", err=True)
    return exit_code
