import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url)
const all = []
for await (const number of client.stream("count", [1000])) all.push(number)
const some = []
const failing = client.stream("fails_after", [3])
const error = await failure((async () => { for await (const number of failing) some.push(number) })())
print([
  all.length, all.every((n, at) => n === at), some, error, await failing.next(),
  await client.stream("count", [0]).next(),
  await Promise.all([1, 2, 3].map(((stream) => () => stream.next())(client.stream("count", [2])))),
])
await client.close()
