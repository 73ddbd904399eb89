import { Client } from "trio-ws"
import { print } from "./kit.mjs"

// What the general code writes, which a deadline asks for, and the code for most calls write the same request.
const sent = []
class Server {
  readyState = 1
  protocol = "trio-ws.v1.json"
  constructor() {
    queueMicrotask(() => this.onopen())
  }
  send(text) {
    const { timeout, call_id, ...rpc } = JSON.parse(text).rpc
    sent.push([JSON.stringify(rpc), timeout === undefined])
  }
  close() {}
}
const client = new Client("ws://example.org/", { WebSocket: Server, heartbeat: Infinity })
await client.ready()
const called = [
  ["m", undefined, {}], ["m", [], {}], ["m", [], { kwargs: {} }], ["m", {}, {}], ["m", [1, "two", null, undefined, [{}]], {}],
  ['"\\\u0000\u20ac\u{1F600}', ['"', new Date(0)], {}], ["m", { a: undefined, "b\n": { c: [1.5] } }, {}],
  ["m", [1], { kwargs: { a: 1, b: null } }], ["m", [new Uint8Array([1])], {}], ["m", { a: new ArrayBuffer(2) }, {}],
]
const all = []
for (const [method, args, options] of called) {
  for (const timeout of [undefined, 1e6]) all.push(client.call(method, args, { ...options, timeout }))
}
const different = called.filter((_, at) => sent[2 * at][0] !== sent[2 * at + 1][0] || !sent[2 * at][1] || sent[2 * at + 1][1])
await client.close.call(Object.assign(client, { _socket: null })) // this server never closes
const ended = await Promise.allSettled(all)
print([different, sent.length, ended.every(({ reason }) => reason.name === "ConnectionLostError"), sent[10][0]])
