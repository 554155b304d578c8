"""The store that fleets run: etcd v3, spoken to over gRPC.

`options` is the configuration, `client` finds a member that answers, `log` is one history of the cluster with its
epoch, `feed` is what stands behind a watch, and `store` puts them together behind the port. Only this package itself
and `options` can be imported without grpcio and protobuf.
"""

import os

# Before anything imports grpc: its messages on stderr say what our errors say already, amid other output.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
