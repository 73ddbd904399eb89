import { Client } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url)
const stream = client.stream("endless", [], { window: 8 })
for (let taken = 0; taken < 20; taken++) await stream.next()
let before, now
do { before = now; [now] = await client.call("progress") } while (before !== now)
await stream.return()
print([now, await client.call("seen"), await stream.next()])
await client.close()
