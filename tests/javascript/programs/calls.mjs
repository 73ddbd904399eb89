import { Client, bytes } from "trio-ws"
import { print, url } from "./kit.mjs"

const client = new Client(url)
print([
  await client.call("add", [1, 2]), await client.call("add", { a: 3, b: 4 }), await client.call("add", [5]),
  await client.call("add", [5], { kwargs: { b: 6 } }), await client.call("echo", ["\u20ac\u{1F600}\u0000"]),
  await client.call("echo", [undefined]), await client.call("echo", [{ a: [1.5, null, true] }]),
  [...bytes(await client.call("reverse", [new Uint8Array([1, 2, 255])]))],
  [...bytes(await client.call("reverse", [new Uint8Array([0, 1, 2, 255]).buffer]))],
  await Promise.all([...Array(1000).keys()].map((n) => client.call("add", [n, 0]))).then((all) => all.every((n, at) => n === at)),
])
await client.close()
