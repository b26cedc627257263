"""The callee of tests/fan_out.rs."""

import board
import teamster


@teamster.context
async def on_demand(ctx, fails):
    with board.guard():
        await ctx.started()
        stream, sent = ctx.open_stream(), 0
        async for more in stream:
            for number in range(sent, sent + more):
                await stream.send(number)
            sent += more
        if fails:
            raise OSError("the feed broke")
        return sent


teamster.run()
