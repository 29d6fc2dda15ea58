"""The transport on grpc.aio: what it takes is public and works with every grpcio."""
