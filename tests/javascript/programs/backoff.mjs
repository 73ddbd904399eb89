import { Client } from "trio-ws"
import { failure, print } from "./kit.mjs"

// Time passes at once, chance is half, and there is no network.
const delays = []
globalThis.setTimeout = (action, delay) => {
  if (delay !== 10_000) queueMicrotask(action), delays.push(delay)
}
Math.random = () => 0.5
let tries = 0
class Nothing {
  constructor() {
    tries++
    queueMicrotask(() => this.onclose({ code: 1006, reason: "" }))
  }
}
const client = new Client("ws://example.org/", { WebSocket: Nothing, reconnect: { attempts: 10 } })
const [name, code, message] = await failure(client.ready())
print([name, code, message, tries, delays])
