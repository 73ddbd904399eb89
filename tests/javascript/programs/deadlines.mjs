import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url)
const call = await failure(client.call("wait", [], { timeout: 50 }))
const log = await client.call("seen")
const stream = client.stream("endless", [], { window: 1, timeout: 50 })
await stream.next()
await stream.next()
print([
  call.slice(0, 2), log, (await failure((async () => { for await (const _ of stream); })())).slice(0, 2),
  await client.call("add", [1], { timeout: 1e12 }), (await failure(client.call("wait", [], { timeout: 0 }))).slice(0, 2),
])
await client.close()
