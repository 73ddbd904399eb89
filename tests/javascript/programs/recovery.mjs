import { Client } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url, { reconnect: { initial: 1, maximum: 5 } })
const options = { recover: true, maxItems: 100_000 }
const subscription = await client.subscribe("room", options)
const last = await client.call("start")
const taken = []
for await (const { gap, missing, data } of subscription) {
  taken.push(gap ? { missing } : data)
  if (data === last) break
}
print(taken)
await client.close()
