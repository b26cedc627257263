"""Both sides of `py_rpc_rtt`: an actor that adds; or, with the path of a socket, an echo by asyncio and msgpack alone.

That is an `asyncio.Protocol`, which is the least that asyncio asks for, or a function with a reader and a writer.
"""

import asyncio
import sys

import teamster

try:
    import msgpack
except ImportError:
    from teamster import _pure as msgpack


@teamster.rpc
async def add(a, b):
    return a + b


class Echo(asyncio.Protocol):
    def __init__(self, ended):
        self.ended = ended
        self.packer = msgpack.Packer()
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while len(self.buffer) >= 4:
            end = 4 + int.from_bytes(self.buffer[:4], "little")
            if len(self.buffer) < end:
                break
            value = msgpack.unpackb(self.buffer[4:end])
            self.buffer = self.buffer[end:]
            answer = self.packer.pack(value)
            self.transport.write(len(answer).to_bytes(4, "little") + answer)

    def connection_lost(self, exc):
        self.ended.set_result(None)


async def echo(path):
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    await loop.create_unix_connection(lambda: Echo(ended), path)
    await ended


async def echo_by_streams(path):
    reader, writer = await asyncio.open_unix_connection(path)
    packer = msgpack.Packer()
    while True:
        try:
            length = int.from_bytes(await reader.readexactly(4), "little")
            value = msgpack.unpackb(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            break
        answer = packer.pack(value)
        writer.write(len(answer).to_bytes(4, "little") + answer)
        await writer.drain()


if len(sys.argv) > 2:
    asyncio.run({"protocol": echo, "streams": echo_by_streams}[sys.argv[2]](sys.argv[1]))
else:
    teamster.run()
