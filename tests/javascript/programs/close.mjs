import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url), waiting = new Client(`${url}/?refuse`, { reconnect: { initial: 1e6, maximum: 1e6 } })
const calls = [failure(client.call("wait", [], { timeout: 1e8 })), failure(waiting.call("add", [1], { timeout: 1e8 }))]
await client.ready()
await client.close()
await waiting.close()
print((await Promise.all(calls)).map(([name, code, message]) => [name, code]))
