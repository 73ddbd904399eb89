import { WebSocket } from "ws"
import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

delete globalThis.WebSocket
let without
try {
  without = new Client(url)
} catch (error) {
  without = error.name
}
const client = new Client(url, { WebSocket, reconnect: { initial: 1 } })
const items = []
for await (const text of client.stream("texts", [3, 2])) items.push(text)
const lost = await failure(client.call("hang_up"))
const refused = new Client(`${url}/?refuse`, { WebSocket, reconnect: false })
print([without, items, lost.slice(0, 2), await client.call("add", [1, 2]), (await failure(refused.ready())).slice(0, 2)])
await client.close()
