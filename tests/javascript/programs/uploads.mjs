import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url)
async function* numbers(n) { for (let i = 0; i < n; i++) yield i }
let closed = 0, made = 0
async function* endless() { try { for (;;) yield made++ } finally { closed++ } }
const chunks = new ReadableStream({
  start(controller) { for (const size of [1, 70_000, 3]) controller.enqueue(new Uint8Array(size)); controller.close() },
})
const sizes = []
for await (const size of client.stream("sizes", { chunks })) sizes.push(size)
async function* broken() { yield 1; throw new RangeError("broken") }
const fails = await failure(client.call("total", [broken()]))
const one = await client.call("take_one", [endless()])
const aborter = new AbortController()
const aborted = failure(client.call("total", [endless()], { signal: aborter.signal }))
await client.call("add", [1])
aborter.abort()
print([
  await client.call("total", [numbers(1000)]), sizes, fails.slice(0, 1), one, (await aborted).slice(0, 1), closed,
  made < 1000, client._session.uploads.size, client._session.waiting.size,
])
await client.close()
