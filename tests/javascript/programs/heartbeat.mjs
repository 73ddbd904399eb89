import { Client } from "trio-ws"
import { print } from "./kit.mjs"

// Time passes when we say so, and the server is here.
const timers = []
globalThis.setTimeout = (action, delay) => delay === 25_000 && timers.push(action)
let answering = true
const asked = []
let closed = 0
class Server {
  readyState = 1
  protocol = "trio-ws.v1.json"
  constructor() {
    queueMicrotask(() => this.onopen())
  }
  send(text) {
    const { method, args, call_id } = JSON.parse(text).rpc
    asked.push([method, args])
    const rpc = { type: "response", call_id, response: true }
    if (answering) queueMicrotask(() => this.onmessage({ data: JSON.stringify({ source: 5, rpc }) }))
  }
  close() {
    closed++
  }
}
const client = new Client("ws://example.org/", { WebSocket: Server, reconnect: false })
await client.ready()
const pass = async () => {
  timers.shift()()
  await client.ready().catch(() => {})
}
for (let time = 0; time < 10; time++) await pass()
const well = [asked.length, client.state, closed]
answering = false
while (client.state !== "closed") await pass()
print([well, asked.length, asked.at(-1), closed, client.error.reason, timers.length])
