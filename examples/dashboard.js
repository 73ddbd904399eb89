import { Client } from "/trio-ws.js"

const client = new Client("/rpc")
const state = document.querySelector("#state")
client.addEventListener("state", () => { state.textContent = client.state })
state.textContent = client.state

const cells = new Map()

function cellOf(name) {
  if (!cells.has(name)) {
    const row = document.querySelector("#gauges").insertRow()
    row.insertCell().textContent = name
    cells.set(name, row.insertCell())
  }
  return cells.get(name)
}

for await (const { channel, data } of await client.subscribe("gauge.*")) {
  cellOf(channel.slice("gauge.".length)).textContent = data.toFixed(1)
}
