import { Client, RPCError, bytes } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const aborted = []
let begun
const sleeping = new Promise((resolve) => (begun = resolve))
let closed = 0
const methods = {
  double: (call, n) => 2 * n,
  named: (call, a, { b }) => [a, b],
  async *numbers(call, n) { try { for (let i = 0; i < n; i++) yield i } finally { closed++ } },
  refuse() { throw new RPCError("not now", -31001, { why: "sleep" }) },
  async nested(call, n) { return await call.call("add", [n, 1]) },
  async total(call, numbers) { let total = 0; for await (const n of numbers) total += n; return total },
  begun: () => sleeping,
  sleep: (call) => { begun(); return new Promise((resolve) => call.signal.addEventListener("abort", () => { aborted.push(call.method); resolve() })) },
  bytes: () => new Uint8Array([1, 2]),
}
const client = new Client(url, { methods })
const back = (method, ...args) => client.call("call_back", [method, args])
print([
  await back("double", 21), await client.call("call_back_named"), await client.call("stream_back", [300]),
  await failure(back("refuse")), (await failure(back("toString")))[1], await back("nested", 41),
  await client.call("upload_back"), await client.call("abort_back"), await client.call("give_up", [0.3]), aborted,
  await client.call("look_back"), await back("bytes"), closed, client._session.running.size,
])
await client.close()
