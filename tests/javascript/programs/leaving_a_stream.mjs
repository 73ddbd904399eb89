import { Client } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url)
const aborter = new AbortController()
const stream = client.stream("endless", [], { window: 4, signal: aborter.signal })

const leave = {
  async break() {
    for await (const number of stream) if (number === 3) break
  },
  async dispose() {
    await stream.next()
    await stream[Symbol.asyncDispose]()
  },
  async throw() {
    await stream.next()
    await stream.throw(new Error("why")).catch(() => {})
  },
  async abort() {
    await stream.next()
    const why = new Error("enough")
    aborter.abort(why)
    if ((await stream.next().catch((error) => error)) !== why) throw new Error("another reason")
  },
}
await leave[process.argv[3]]()
print([(await client.call("seen")).at(-1), client._session.waiting.size, (await stream.next()).done])
await client.close()
