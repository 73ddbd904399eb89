"""Control a browser with the Chrome DevTools Protocol, at the URL that it prints when it starts."""

import sys

import trio

import trio_ws
from trio_ws.dialects import CDP, CDPSession


async def main(url: str) -> None:
    async with trio_ws.WebSocketClient(url, dialect=CDP()) as client:
        target = await client.call("Target.createTarget", url="about:blank")
        async with CDPSession.attach(client, target["targetId"]) as page:
            await page.call("Page.enable")
            async with page.notifications("Page.loadEventFired") as loads:
                await page.call("Page.navigate", url="data:text/html,<title>Hello</title>")
                await loads.receive()
            title = await page.call("Runtime.evaluate", expression="document.title")
            print(title["result"]["value"])


trio.run(main, sys.argv[1])
