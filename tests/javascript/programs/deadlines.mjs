import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const drain = async (stream) => {
  for await (const _ of stream);
}

const client = new Client(url)
await client.ready() // else the time might be over before a request is sent
const call = await failure(client.call("wait", [], { timeout: 50 }))
const log = await client.call("seen")
const stream = await failure(drain(client.stream("endless", [], { window: 1, timeout: 50 })))
const long = await client.call("add", [1], { timeout: 1e12 })
const none = await failure(client.call("wait", [], { timeout: 0 }))
print([call.slice(0, 2), log, stream.slice(0, 2), long, none.slice(0, 2)])
await client.close()
