import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const never = new Client(`${url}/?refuse`, { reconnect: false })
const few = new Client(`${url}/?refuse`, { reconnect: { initial: 1, attempts: 3 } })
const other = new Client(url, { reconnect: { initial: 1, retries: (error) => error.code !== 4001 } })
const refused = new Client(url, { onConnection: (connection) => connection.call("refuse") })
print([
  (await failure(never.ready())).slice(0, 2), never.state, (await failure(few.call("add", [1]))).slice(0, 2), few._tries, few.state,
  (await failure(other.call("hang_up"))).slice(0, 2), other.state, other.error.code,
  (await failure(refused.call("add", [1]))).slice(0, 3), refused.error.code,
  await failure(never.subscribe("news")),
])
await refused.close()
