// @ts-check
// api.ts is made by: trio-ws types app:app > api.ts
import { Client, RPCError } from "trio-ws"

/** @type {Client<import("./api").Methods, import("./api").Channels>} */
const client = new Client("/rpc")

/** @type {(id: string) => any} */
const $ = (id) => document.getElementById(id)

client.addEventListener("state", () => ($("state").textContent = client.state))

$("ask").onsubmit = async (/** @type {Event} */ event) => {
  event.preventDefault()
  try {
    const order = { item: $("item").value, count: $("count").valueAsNumber }
    const price = await client.call("price", order, { timeout: 5000 })
    $("price").value = price.toFixed(2)
  } catch (error) {
    if (!(error instanceof RPCError)) throw error
    $("price").value = error.message
  }
}

let counting = new AbortController()
$("start").onclick = async () => {
  counting.abort()
  counting = new AbortController()
  const { signal } = counting
  try {
    for await (const left of client.stream("countdown", { start: 100 }, { signal })) $("left").value = left
  } catch (error) {
    if (!signal.aborted) throw error
  }
}
$("stop").onclick = () => counting.abort()

$("file").onchange = async () => {
  $("bytes").value = await client.call("count_bytes", { chunks: $("file").files[0].stream() })
}

/** @param {string} text */
const show = (text) => $("news").append(Object.assign(document.createElement("li"), { textContent: text }))

for await (const packet of await client.subscribe("news", { recover: true, last: 5 })) {
  if (packet.gap) show(`${packet.missing ?? "some"} messages are missing here`)
  else show(packet.data)
}
