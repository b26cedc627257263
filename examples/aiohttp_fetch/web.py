"""A server and a client, as anybody writes them with aiohttp."""

import asyncio

import aiohttp
from aiohttp import web


async def serve(chan):
    async def hello(_request):
        return web.Response(text="hello from aiohttp")

    async def slow(_request):
        chan.send_nowait("a slow request has begun")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            chan.send_nowait("its client has gone")
            raise

    app = web.Application()
    app.add_routes([web.get("/hello", hello), web.get("/slow", slow)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        chan.started_nowait(runner.addresses[0][1])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()
