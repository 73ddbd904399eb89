import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url)
await client.ready()
const aborter = new AbortController()
const call = failure(client.call("wait", [], { signal: aborter.signal }))
await client.call("progress") // the method waits
aborter.abort()
const early = await failure(client.call("add", [1, 1], { signal: aborter.signal }))
print([(await call).slice(0, 1), early.slice(0, 1), await client.call("seen"), client._session.waiting.size])
await client.close()
