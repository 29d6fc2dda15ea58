"""The process and its life: everything that is started, in order, and stopped, in the reverse order.

Start: configuration → port bound (live, not ready) → models loaded and warmed up → SERVING → registered
→ ready line. Stop: deregistered and NOT_SERVING → still serving while look-ups notice → what was accepted
is answered → engines closed. A second signal ends the process at once, unless it comes with the first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from typing import Final, TextIO

from headrace_proto import __version__
from headrace_proto.certificates import CertificateError
from headrace_server import room_options, stop_signals
from headrace_server.config import Loaded
from headrace_server.core.gpu_watchdog import GpuWatchdog
from headrace_server.core.service import Service
from headrace_server.discovery.consul import ConsulRegistrar
from headrace_server.discovery.registry import Registrar, RegistrationError, why_not_registered
from headrace_server.ending import end
from headrace_server.garbage import Garbage
from headrace_server.listen_address import ListenAddress
from headrace_server.models.layout import RepositoryError
from headrace_server.models.repository import Mode, Repository
from headrace_server.server_config import ServerConfig
from headrace_server.telemetry import logs
from headrace_server.telemetry.gpus import Gpus
from headrace_server.telemetry.log_settings import LogControl
from headrace_server.telemetry.long_executions import LongExecutions
from headrace_server.telemetry.metrics import Metrics
from headrace_server.telemetry.metrics_server import MetricsPortError, MetricsServer
from headrace_server.telemetry.trace_file import TraceFileError
from headrace_server.transport import choice
from headrace_server.transport.choice import TransportError, TransportKind
from headrace_server.transport.diagnostics import Diagnostics
from headrace_server.transport.health import Health, states_of
from headrace_server.transport.listening import PortError
from headrace_server.transport.server import TransportServer

_logger = logging.getLogger(__name__)


class StartError(Exception):
    """The server cannot start; the text says what to change."""


_WHY_NOT_STARTED: Final = (
    StartError, PortError, CertificateError, MetricsPortError, TraceFileError,
    RepositoryError, RegistrationError, TransportError,
)  # fmt: skip
_LEAST_FILES: Final = 32
"""Open files below which event loop, gRPC and Python fail each in its own way, gRPC by ending the process."""
_ENGINES_SECONDS: Final = 1.0
"""Kept of the time for a stop, so that one model that hangs leaves the others time to end."""
_TRACES_SECONDS: Final = 5.0
"""Longest wait on stop for traces to be written."""
_GPU_LOOKS_SECONDS: Final = 5.0
"""Between two looks at what GPUs execute, or a tenth of the longest execution where that is less."""
GPU_LOST: Final = 75
"""Exit code: the machine may be well again when the process is begun anew (EX_TEMPFAIL)."""


def run(loaded: Loaded) -> int:
    """Serve until a signal comes; return the exit code: 0 after a stop, 1 if the server cannot start.

    May not return, but end the process: see `end`.
    """
    config = loaded.config
    log = logs.set_up(config.log_level, config.log_format)
    for doubt in loaded.doubts:
        _logger.warning("%s", doubt)
    output = sys.stdout
    try:
        _check_files()
        room_options.bound_gpu_memory(config)
        # What a program prints must not stand before the ready line, or after it.
        with redirect_stdout(sys.stderr), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            server = Server(config, log, output)
            is_idle = runner.run(server.serve())
    except _WHY_NOT_STARTED as error:
        _logger.error("%s", error)  # noqa: TRY400  # the text says it all; a traceback would hide it
        return 1
    return end(server.exit_code, is_idle=is_idle)


class Server:
    """One server process."""

    def __init__(self, config: ServerConfig, log: logs.Log, output: TextIO) -> None:
        """`output` is where the ready line is written."""
        self._config = config
        self._output = output
        self._log = LogControl(log)
        self._health = Health()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        """Set when a model has changed its state, or the server is to stop."""
        self._repository = Repository(room_options.repository_options(config), self._models_changed)
        self._catalogue = self._repository.catalogue
        self._service = Service(self._catalogue, self._repository)
        self._tracing = room_options.tracing(config, self._catalogue)
        self._addresses: dict[str, str | list[str]] = {}
        """What the ready line tells of each port."""
        self._metrics_port: int | None = None
        self._registrar: Registrar | None = None
        self._engines_closed = True
        self._watchdog = GpuWatchdog(
            self._repository.models, config.gpu_watchdog_secs, room_options.declare_gpu_lost
        )
        self.exit_code = 0

    async def serve(self) -> bool:
        """Start, serve until a signal, stop; return whether every engine ended in time, and no GPU is lost.

        Raises one of the errors of `_WHY_NOT_STARTED` if it cannot start.
        """
        self._loop = asyncio.get_running_loop()
        stop_signals.catch(self._loop, self._stop_now)
        wanted = self._repository.open()
        diagnostics = Diagnostics(self._log, self._tracing)
        transport = choice.make(
            choice.chosen(TransportKind(self._config.grpc_transport)),
            self._service,
            self._health,
            room_options.transport_options(self._config),
            diagnostics.procedures(),
        )
        gpus = Gpus(room_options.gpu_samples)
        page = Metrics(self._catalogue, self._service, transport, __version__, gpus).page
        metrics_host = self._config.metrics_address or self._config.host
        metrics = MetricsServer(page, metrics_host, self._config.metrics_port)
        garbage = Garbage(self._loop)
        watches = [
            asyncio.create_task(LongExecutions(self._catalogue).watch()),
            asyncio.create_task(self._watch_gpus()),
        ]
        try:
            self._tracing.start()
            bound = await transport.start()  # first: what is wrong with --host is told of gRPC
            self._addresses = _told(bound)
            if self._config.allow_metrics:
                self._metrics_port = metrics.start()
                self._addresses["metrics"] = _address(metrics_host, self._metrics_port)
            _logger.info("listening on %s, loading %d models", ", ".join(map(str, bound)), len(wanted))
            await self._load(wanted)
            self._changed.clear()  # what loading has changed is told now, and not as news
            garbage.freeze()
            if not self._stop.is_set():
                await self._open_for_business(bound[0].port)
            await self._tell_changes(garbage)
        finally:
            garbage.close()
            await self._leave()
            self._engines_closed = await self._finish(transport)
            for watch in watches:
                watch.cancel()
            metrics.close()
            self._tracing.close(_TRACES_SECONDS)
        _logger.info("stopped")
        return self._engines_closed and not self._watchdog.lost

    async def _load(self, wanted: Sequence[str]) -> None:
        """Load the models, a few at a time; a stop meanwhile leaves out those that were not begun."""
        self._repository.start()
        while not self._catalogue.is_complete and not self._stop.is_set():
            await self._changed.wait()
            self._changed.clear()
        polls = self._config.model_control_mode == Mode.POLL.value  # what fails now may be mended by then
        if wanted and not polls and not self._stop.is_set() and not self._catalogue.ready():
            reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in self._catalogue.index())
            raise StartError(f"no model could be loaded: {reasons}")

    async def _watch_gpus(self) -> None:
        longest = self._config.gpu_watchdog_secs
        while True:
            await asyncio.sleep(min(_GPU_LOOKS_SECONDS, longest / 10 or _GPU_LOOKS_SECONDS))
            try:
                self._watchdog.look()
            except Exception:
                _logger.exception("a look at the GPUs failed; the next one tries again")

    def _stop_if_a_gpu_is_lost(self) -> None:
        """Stop for good, unless models on the CPU are to be served on, and there are some."""
        self._watchdog.look()
        if not self._watchdog.lost or self._stop.is_set():
            return
        if self._config.exit_on_gpu_loss or not self._catalogue.ready():
            _logger.critical("stopping, to be started anew: the exit code will be %d", GPU_LOST)
            self.exit_code = GPU_LOST
            self._stop.set()

    async def _tell_changes(self, garbage: Garbage) -> None:
        """Until the stop, keep health and registry true; changes that come together are told together."""
        self._stop_if_a_gpu_is_lost()  # while all was loaded
        while not self._stop.is_set():
            await self._changed.wait()
            self._changed.clear()
            garbage.models_changed()
            self._stop_if_a_gpu_is_lost()
            if not self._stop.is_set():
                self._show_health()
                if self._registrar is not None:
                    await self._registrar.update(self._served())

    async def _open_for_business(self, port: int) -> None:
        self._show_health()
        if self._config.consul:
            await self._register(port)
        ready = {
            "event": "ready",
            **self._addresses,
            "models": self._served(),
            "version": __version__,
        }
        try:
            self._output.write(json.dumps(ready) + "\n")
            self._output.flush()
        except OSError as error:
            raise StartError(f"cannot write the ready line to stdout: {error.strerror}") from error

    async def _register(self, port: int) -> None:
        config = self._config
        problem = why_not_registered(config.host, config.advertise)
        if problem:
            if config.consul_required:
                raise StartError(f"not registered in Consul: {problem}")
            _logger.warning("not registered in Consul: %s", problem)
            return
        entry = room_options.service_entry(config, port, self._metrics_port, self._served())
        self._registrar = ConsulRegistrar(room_options.consul_settings(config), entry)
        if not self._served():  # callers are to come when there is something to call
            await self._registrar.update({})
        await self._registrar.start()
        if config.consul_required:
            await self._registrar.first_attempt()

    async def _leave(self) -> None:
        """Tell everybody that this server goes, and serve on until they can have heard it."""
        self._service.leave()
        registered = self._registrar is not None and self._registrar.registered.is_set()
        if self._registrar is not None:
            await self._registrar.stop()
        self._health.leave()
        if registered:
            await asyncio.sleep(self._config.drain_secs)

    async def _finish(self, transport: TransportServer) -> bool:
        """Answer what was accepted, then close the engines; return whether all of them ended in time."""
        timeout = self._config.exit_timeout_secs
        kept = min(_ENGINES_SECONDS, timeout / 2)
        give_up = time.monotonic() + timeout
        await transport.stop(timeout - kept)
        left = max(kept, give_up - time.monotonic())
        return await asyncio.to_thread(self._repository.close, left)

    def _served(self) -> dict[str, str]:
        """Return the newest version of each model that answers."""
        return {model.facts.name: model.facts.version for model in self._catalogue.ready()}

    def _show_health(self) -> None:
        self._tracing.attach()
        index = list(self._catalogue.index())
        self._health.show(states_of(ready=self._service.is_ready(), index=index))

    def _models_changed(self) -> None:
        """Called from any thread, and perhaps when the loop has ended."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._changed.set)

    def _stop_now(self) -> None:
        self._stop.set()
        self._changed.set()


def _check_files() -> None:
    """Raise StartError where the process may open fewer files than any server does."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES:
        raise StartError(
            f"the limit on open files is {files}, and a server needs {_LEAST_FILES}, and one more for each "
            "connection: raise it (ulimit -n)"
        )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where it is installed: a call costs a tenth to a fifth less than on asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _told(bound: Sequence[ListenAddress]) -> dict[str, str | list[str]]:
    """Return what the ready line says of the addresses for gRPC."""
    first, *others = map(str, bound)
    return {"grpc": first, "listen": others} if others else {"grpc": first}


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
