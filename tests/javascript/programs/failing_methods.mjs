import { Client } from "trio-ws"
import { failure, print, url } from "./kit.mjs"

const said = []
console.error = (...words) => said.push(words[0])
const cycle = {}; cycle.cycle = cycle
const client = new Client(url, { methods: { broken() { throw new Error("secret") }, cycle: () => cycle } })
print([await failure(client.call("call_back", ["broken", []])), await failure(client.call("call_back", ["cycle", []])), said])
await client.close()
