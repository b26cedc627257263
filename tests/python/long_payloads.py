"""The callee of tests/long_payloads.rs."""

import asyncio

import board
import numpy as np
import teamster


@teamster.rpc
async def add(a, b):
    return a + b


def block(length):
    """Something of each length, which no other has: bytes as they lie in an array."""
    at = np.arange(length, dtype=np.uint32)
    return (at ^ at >> 8 ^ at >> 16 ^ np.uint32(length)).astype(np.uint8)


@teamster.rpc
async def same(data):
    with board.guard():
        return data


@teamster.rpc
async def fails_at_length(words):
    raise OSError("word " * words)


@teamster.context
async def says_sends_returns(ctx, length, items):
    with board.guard():
        await ctx.started(block(length))
        if items:
            stream = ctx.open_stream()
            for one in (1, length, 2, length + 1):
                await stream.send(block(one))
        return block(length + 2)


@teamster.context
async def says_and_fails(ctx):
    await ctx.started(block(4 << 20))
    raise OSError("too early")


@teamster.context
async def takes(ctx):
    with board.guard():
        await ctx.started()
        return sum([len(item) async for item in ctx.open_stream()])


@teamster.context
async def measures(ctx, data):
    await ctx.started(len(data))


@teamster.context
async def sends_before_it_reads(ctx):
    with board.guard():
        await ctx.started()
        stream = ctx.open_stream()
        for _ in range(40):
            await stream.send(b"\1" * 100_000)
        async for _ in stream:
            pass


@teamster.context
async def says_goodbye(ctx):
    with board.guard():
        await ctx.started()
        stream = ctx.open_stream()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(40):
                await stream.send(b"\1" * 100_000)


teamster.run()
