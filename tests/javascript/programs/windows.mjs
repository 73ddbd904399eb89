import { Client } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url)
let items = 0, size = 0
for (const options of [{ windowBytes: 4096 }, { windowBytes: 100 }, { window: 1 }, { window: 3, windowBytes: 1 }])
  for await (const text of client.stream("texts", [200, 500], options)) { items++; size += text.length }
print([items, size])
await client.close()
