"""Everything that is answered over gRPC, whichever transport carries it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from headrace_proto.names import SERVICES
from headrace_server.core.service import Service
from headrace_server.transport import channelz
from headrace_server.transport.control import Control, Procedure
from headrace_server.transport.control_calls import ControlCalls
from headrace_server.transport.health import Health
from headrace_server.transport.health_procedures import HealthProcedures
from headrace_server.transport.inference import Inference
from headrace_server.transport.inflation import Inflation
from headrace_server.transport.options import TransportOptions
from headrace_server.transport.reflection import ReflectionProcedures
from headrace_server.transport.regions import Regions
from headrace_server.transport.seam import Reactor, Route, Routes, Streaming, Unary
from headrace_server.transport.shared_memory_control import SharedMemoryCalls


class Endpoint:
    """The procedures of one server, by their paths, and how they end with it."""

    def __init__(
        self,
        service: Service,
        health: Health,
        options: TransportOptions,
        reactor: Reactor,
        procedures: Mapping[str, Procedure] = MappingProxyType({}),
    ) -> None:
        """`procedures` are those that somebody else answers."""
        self._service = service
        self._regions = Regions(allowed=options.allow_client_shm, device_memory=options.device_memory)
        self._health = HealthProcedures(reactor)
        health.add_listener(self._health.set)
        has_channelz = options.connections.channelz
        self._reflection = ReflectionProcedures(reactor, channelz=has_channelz)
        inflation = Inflation(options.connections.max_message_bytes)
        self.inference = Inference(service, reactor, options.inference, self._regions, inflation)
        self._control = ControlCalls(reactor, self.inference.holdings, inflation)
        self.routes: Routes = {
            **self._protocol(procedures),
            **self._health.routes(),
            **self._reflection.routes(),
            **(channelz.routes() if has_channelz else {}),
        }

    def leave(self) -> None:
        """Say that the server is not ready, and let go of calls that only wait for something. Any thread."""
        self._service.leave()
        self._control.end()

    def refuse(self) -> None:
        """Take no more requests; those accepted are answered. Any thread."""
        self._service.stop_accepting()

    def end_watches(self) -> None:
        """End what would otherwise go on for as long as its client likes. Any thread."""
        self._health.end()
        self._reflection.end()

    def cut_watches(self) -> None:
        """End those of them whose clients do not take what was sent. Any thread."""
        self._health.cut()
        self._reflection.cut()

    def close(self) -> None:
        """Let go of the threads, and of clients' memory; nothing comes any more."""
        self.inference.close()
        self._regions.close()

    def _protocol(self, further: Mapping[str, Procedure]) -> dict[str, Route]:
        shared_memory = SharedMemoryCalls(self._regions).procedures()
        procedures = Control(self._service, {**shared_memory, **further}).procedures()
        routes: dict[str, Route] = {
            "ModelInfer": Unary(self.inference.infer),
            "ModelStreamInfer": Streaming(self.inference.open_stream),
        }
        for name, procedure in procedures.items():
            routes[name] = self._control.route(procedure)
        return {f"/{service}/{name}": route for service in SERVICES for name, route in routes.items()}
