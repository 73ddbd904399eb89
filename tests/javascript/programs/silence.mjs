import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

// A server that accepts connections of TCP and says nothing, and one that opens a WebSocket and says nothing more.
const [dumb, silent] = process.argv.slice(3)
const never = new Client(dumb, { openTimeout: 50, reconnect: false })
const opening = await failure(never.ready())
const quiet = new Client(silent, { heartbeat: 50, reconnect: false })
await quiet.ready()
const lost = await failure(quiet.call("anything"))
const well = new Client(url, { heartbeat: 20, reconnect: false })
await well.ready()
await new Promise((resolve) => setTimeout(resolve, 300))
print([opening.slice(0, 2), lost, await well.call("add", [1])])
await well.close()
