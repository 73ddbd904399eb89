import { Client } from "trio-ws"
import { failure, print } from "./kit.mjs"

// A server that accepts connections of TCP and says nothing, and one that opens a WebSocket and says nothing more.
const [dumb, silent] = process.argv.slice(2)
const never = new Client(dumb, { openTimeout: 50, reconnect: false })
const opening = await failure(never.ready())
const quiet = new Client(silent, { heartbeat: 50, reconnect: false })
await quiet.ready()
print([opening.slice(0, 2), await failure(quiet.call("anything"))])
