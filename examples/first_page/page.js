// @ts-check
import { Client } from "trio-ws"

/** @type {Client<import("./api").Methods>} */
const client = new Client("/rpc")

const price = await client.call("price", { item: "tea", count: 3 })
document.body.append(`Three teas cost ${price.toFixed(2)}.`)
