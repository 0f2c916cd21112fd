"""An API server in a process of its own, so that it is not timed with who asks it: ``python -m tests.bench.served FILE``."""

import asyncio
import signal
import sys
from pathlib import Path

from scheduler.apiserver import client, paths
from tests.testbed import embedded

NODE = "n1"


async def main(kubeconfig: Path) -> None:
    """Serve one node without controllers until SIGTERM; the kubeconfig is there from when it answers."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with embedded.Server(run=frozenset()) as server:
        written = server.kubeconfig(kubeconfig.with_suffix(".part"))
        async with await client.Client.connect(written) as api:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
            await api.create(paths.of("v1", "nodes"), node)
        written.replace(kubeconfig)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
