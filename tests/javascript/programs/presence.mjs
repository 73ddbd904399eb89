import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url, { reconnect: { initial: 1 } })
const room = await client.subscribe("room")
await client.publish("room", "mine")
const published = [(await room.next()).value.data, (await failure(client.publish("secret", 1))).slice(0, 2)]

// One that is present is so for as long as its stream; the server hangs up in between.
const seen = []
const presence = client.presence("room")
const look = async () => seen.push([...(await presence.next()).value.values()])
await look()
const ada = client.stream("be_present", ["room", { name: "ada" }])
await ada.next()
await look()
await ada.return()
await look()
await failure(client.call("hang_up"))
await look()
await presence.return()
const hidden = await failure(client.presence("elsewhere").next())

const short = await client.subscribe("short")
const ended = await failure(short.next())
const stays = [await client.refresh("good"), (await failure(client.refresh("bad"))).slice(0, 2)]
print({ stays, published, seen, hidden: hidden.slice(0, 2), ended: ended.slice(0, 2), done: (await short.next()).done })
await client.close()
