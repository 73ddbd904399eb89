import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url, { reconnect: { initial: 1 } })
const take = async (subscription, count) => {
  const taken = []
  while (taken.length < count) taken.push((await subscription.next()).value)
  return taken.map(({ channel, data, gap }) => (gap ? "gap" : `${channel}: ${data}`))
}
const publish = (channel, data) => client.call("publish_it", [channel, data])
const others = []
const heard = new Promise((resolve) => {
  client.addEventListener("packet", ({ packet }) => others.push(packet.data) === 3 && resolve())
})

const one = await client.subscribe("news.tech", { recover: true })
const globs = await client.subscribe(["news.*", "n?ws.[s-u]ech", "weather"])
await publish("news.tech", 1)
await publish("news.sport", 2)
await publish("weather", 3)
const first = [await take(one, 1), await take(globs, 3)]

// One subscription leaves, the other keeps the name that they share.
await one.return()
await publish("news.tech", 4)
const second = [await take(globs, 1), (await one.next()).done]

// The names come back with the next connection.
const keeper = await client.subscribe("news.tech", { recover: true })
await failure(client.call("hang_up"))
await client.ready()
await publish("news.tech", 5)
const third = [await take(globs, 1), await take(keeper, 2)]

const refused = await failure(client.subscribe("secret"))
const aborter = new AbortController()
const leaving = await client.subscribe("alone", { signal: aborter.signal })
const waiting = leaving.next()
aborter.abort()
const aborted = [await waiting, (await failure(client.subscribe("late", { signal: aborter.signal })))[0]]
while ((await client.call("held")).includes("alone"));

// What nobody takes is dropped, the oldest first, or the newest.
const oldest = await client.subscribe("flood", { maxItems: 3 })
const newest = await client.subscribe("flood", { maxItems: 3, policy: "drop_newest" })
const bounded = await client.subscribe("flood", { maxBytes: 1 })
const all = await client.subscribe("flood")
for (let number = 0; number < 10; number++) await publish("flood", number)
await take(all, 10)
const flood = [await take(oldest, 3), oldest.dropped, await take(newest, 3), newest.dropped, await take(bounded, 1)]

await client.call("send_packet", ["plain"])
await client.call("subscribe_me", ["mine"])
await publish("mine", "unasked")
await client.send({ any: ["data"] })
await heard

const held = await client.call("held")
await client.close()
print({ first, second, third, refused, aborted, flood, others: others.map((data) => JSON.stringify(data)).sort(), held, after: await globs.next().catch((error) => error.name) })
