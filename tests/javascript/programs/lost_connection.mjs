import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const states = [], connections = []
const client = new Client(url, { reconnect: { initial: 1 }, onConnection: async (c) => connections.push(await c.call("add", [1])) })
client.addEventListener("state", () => states.push(client.state))
const first = await client.call("add", [1, 1])
const lost = failure(client.call("wait"))
const stream = client.stream("endless")
await stream.next()
await failure(client.call("hang_up"))
const [name, code, message] = await lost
const later = await client.call("add", [2, 2])
await client.close()
const late = await failure(client.call("add", [1]))
print([first, name, code, message, later, connections, states, late, client.error])
