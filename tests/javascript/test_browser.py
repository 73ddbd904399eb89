"""The JavaScript client in Chromium, by the example of docs/how-to/browser.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.chromium import chromium
from tests.support.commands import ROOT, serving_process
from tests.test_examples_channels import running

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_example_calls_streams_cancels_and_uploads(tmp_path: Path) -> None:
    async with running("browser/app.py", "0") as server, chromium(tmp_path) as browser:
        address = await server.page()
        page = await browser.open(address)
        await page.until("document.querySelector('#state').innerText === 'connected'")
        await page.type("#count", "3", enter=True)
        assert await page.until("document.querySelector('#price').innerText") == "7.50"
        await page.type("#item", "beer", enter=True)
        await page.until("document.querySelector('#price').innerText === 'there is no beer today'")

        await page.evaluate("document.querySelector('#start').click()")
        await page.until("document.querySelector('#left').innerText === '98'")
        await page.evaluate("document.querySelector('#stop').click()")
        # No item comes behind the answer to this call, since the generator was cancelled before it was made.
        left = "document.querySelector('#left').innerText"
        before = await page.evaluate(left)
        await page.type("#item", "cake", enter=True)
        await page.until("document.querySelector('#price').innerText === '12.00'")
        assert await page.evaluate(left) == before

        await page.evaluate("""{
          const files = new DataTransfer()
          files.items.add(new File([new Uint8Array(200_000)], "zeros"))
          document.querySelector("#file").files = files.files
          document.querySelector("#file").dispatchEvent(new Event("change"))
        }""")
        assert await page.until("document.querySelector('#bytes').innerText") == "200000"

        news = "[...document.querySelectorAll('#news li')].map((one) => one.innerText)"
        told = ["somebody wants 3 of tea", "somebody wants 3 of cake"]
        await page.until(f"{news}.length === 2")
        assert await page.evaluate(news) == told
        other = await browser.open(address)
        await other.until(f"{news}.length === 2")
        assert await other.evaluate(news) == told
        assert await server.stop() == 0


#: What a page of any site may try with the module, under the strictest policy; the result is its title.
MODERN = """
  const { Client } = await import("/trio-ws.js")
  const made = []
  {
    await using client = new Client("/rpc")
    made.push(await client.call("price", { item: "tea" }))
    { await using stream = client.stream("countdown", [1000]); made.push((await stream.next()).value) }
    made.push(client._session.waiting.size)
    globalThis.client = client
  }
  return [...made, client.state]
"""


async def test_the_first_page_of_the_documentation_calls(tmp_path: Path) -> None:
    """The example as docs/how-to/browser.md says to run it."""
    with serving_process("app:app", cwd=ROOT / "examples" / "first_page") as (_, url):
        async with chromium(tmp_path) as browser:
            page = await browser.open(url.replace("ws", "http", 1))
            assert await page.until(
                "document.body.innerText.includes('7.50') && document.body.innerText"
            ) == ("Shop\nThree teas cost 7.50.")


async def test_await_using(tmp_path: Path) -> None:
    async with running("browser/app.py", "0") as server, chromium(tmp_path) as browser:
        page = await browser.open(await server.page())
        seen = await page.evaluate(f"(async () => {{ {MODERN} }})()")
        assert seen == [2.5, 1000, 0, "closed"]
        assert await server.stop() == 0
