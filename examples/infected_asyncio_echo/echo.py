"""An asyncio task that says hello and sends back what it gets."""


async def echo(chan, name):
    chan.started_nowait(f"asyncio says hello to {name}")
    count = 0
    async for value in chan:
        await chan.send(value)
        count += 1
    return count
