import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const tokens = ["bad", "a b&c", "second"]
let moved = false
let asked = 0
let failed = false
const client = new Client(() => (moved ? "http" + process.argv[3].slice(2) : new URL(url)), {
  reconnect: { initial: 1 },
  async token() {
    asked++
    if (moved && !failed) {
      failed = true
      throw new Error("no token now")
    }
    return tokens.shift()
  },
})
await client.call("add", [1])
moved = true
await failure(client.call("hang_up"))
await client.call("add", [1])
print(asked)
await client.close()
