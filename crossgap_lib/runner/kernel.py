"""The kernels in which notebooks run headless."""

import os
from tempfile import gettempdir
from typing import Any
from uuid import uuid4

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import default


class ThisPython(AsyncKernelManager):
    """Kernels of the running interpreter, whatever kernelspec the machine has under the name python3."""

    @default("kernel_spec_manager")
    def _native_only(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[], parent=self)

    @default("transport")
    def _no_ports(self) -> str:
        """Sockets that are files: two kernels that start at once may choose the same free TCP port, and one dies."""
        return "ipc" if os.name == "posix" else "tcp"

    @default("ip")
    def _own_files(self) -> str:
        return f"{gettempdir()}/crossgap-{uuid4().hex}" if self.transport == "ipc" else "127.0.0.1"

    def client(self, **settings: Any) -> AsyncKernelClient:
        self.asking = super().client(**settings)
        return self.asking

    async def _async_is_alive(self) -> bool:
        """Is asked every second while a cell runs; a reply that was overlooked is noticed then.

        What nbclient tells an Output widget goes out past the event loop, through the socket on which the loop awaits
        the cell's reply. That may swallow the event which says that the reply is there, and the cell would run for
        ever: one in a hundred whose widget met an error. Asking the socket for its events wakes the loop.
        """
        if self.asking and self.asking.channels_running:
            _ = self.asking.shell_channel.socket.events
        return await super()._async_is_alive()

    asking, is_alive = None, _async_is_alive
