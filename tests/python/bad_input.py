"""The actor of tests/bad_input.rs at whose socket strangers knock."""

import asyncio
import resource

import teamster


@teamster.rpc
async def add(a, b):
    return a + b


@teamster.context
async def listens(ctx):
    await ctx.started()
    async for _ in ctx.open_stream():
        pass


@teamster.context
async def waits(ctx):
    await ctx.started()
    await asyncio.Event().wait()


@teamster.rpc
async def without_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    return b"\7" * (8 << 20)


teamster.run()
