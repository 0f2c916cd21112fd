"""An API server in this process, for demos and for tests that need thousands of fast runs.

    async with embedded.Server(version="1.37") as server:
        async with await client.Client.connect(server.kubeconfig(path)) as api: ...

It is a verified fake: ``tests/testbed/contract`` runs against it and against kube-apiserver. Not here: authentication,
authorization, admission webhooks, schemas (unknown fields are kept), priorities, quotas.
"""

from tests.testbed.embedded.server import Server

__all__ = ["Server"]
