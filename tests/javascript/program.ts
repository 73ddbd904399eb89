// What tsc --strict takes, and refuses: tests/javascript/test_types.py compiles it, with changes too.
import { Client, ConnectionLostError, RPCError, base64, bytes } from "trio-ws"
import type { ChannelPacket, Gap, Stream, Subscription } from "trio-ws"
import type { Channels, Methods } from "./api"

export async function main(): Promise<void> {
  const client = new Client<Methods, Channels>("/rpc", {
    token: async () => "fresh",
    methods: { ask: async (call, question: string) => (await call.call("price", { item: question })).toFixed(2) },
    onConnection: (connection) => connection.call("price", { item: "tea" }),
    reconnect: { attempts: 3 },
  })
  const price: number = await client.call("price", { item: "tea", count: 2 }, { timeout: 5000 })
  const place: [number, string] = await client.call("place", [1, "b"])
  await client.call("ping")
  await client.call("ping", [], { signal: AbortSignal.timeout(100) })
  await client.call("names")
  await client.call("names", { upper: true })
  for await (const left of client.stream("countdown", { start: 3 }, { window: 8 })) {
    const number: number = left
  }
  const stream: Stream<number> = client.stream("countdown", { start: 3 })
  const file: ReadableStream<Uint8Array> = new Blob([]).stream()
  const size: number = await client.call("count_bytes", { chunks: file })
  async function* chunks(): AsyncGenerator<string> {
    yield base64(new Uint8Array(3))
  }
  await client.call("count_bytes", { chunks: chunks() })
  const news: Subscription<ChannelPacket<string>> = await client.subscribe("news")
  const tea: Subscription<ChannelPacket<number> | Gap> = await client.subscribe("prices.tea", { recover: true })
  for await (const packet of tea) {
    if (packet.gap) continue
    const data: number = packet.data
    const channel: string = packet.channel
  }
  try {
    await using scoped = new Client<Methods>("/rpc")
    await scoped.call("ping")
  } catch (error) {
    if (error instanceof RPCError) console.log(error.code, error.data)
    if (error instanceof ConnectionLostError) console.log(error.mayHaveRun satisfies boolean)
  }
  client.addEventListener("packet", (event) => console.log(event.packet.data, bytes("AA==").length))

  const loose = new Client(new URL("wss://example.org/"))
  const anything: string = await loose.call("anything", [1, "two", { three: 3 }])
  for await (const item of loose.stream("items", { by: "name" })) console.log(item.whatever)
  for await (const { data } of await loose.subscribe(["a", "b.*"])) console.log(data.whatever)
}
