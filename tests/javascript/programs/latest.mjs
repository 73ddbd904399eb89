import { Client } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url, { reconnect: null })
const next = async (subscription) => (await subscription.next()).value

// The server knows the first value, and another one of its processes has given us the second.
const before = await client.subscribe("price")
await client.call("publish", [1])
const [epoch] = (await next(before)).position
const after = await client.subscribe("price", { after: [epoch, 2] })
await client.call("publish", [2])
await client.call("publish", [3])
const { data, position } = await next(after)
print([data, position[1]])
await client.close()
