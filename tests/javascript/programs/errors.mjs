import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const client = new Client(url)
const big = 10n
print([
  await failure(client.call("refuse")), await failure(client.call("nobody")),
  await failure(client.call("add", ["1", 2])), (await failure(client.call("echo", [big])))[0],
  await failure(client.call("count", [3])), await failure(client.stream("add", [1, 2]).next()),
  await failure(client.stream("nobody").next()), await failure(client.call("add", [1, 1])),
])
await client.close()
