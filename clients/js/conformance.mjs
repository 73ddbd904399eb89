/**
 * The driver of this client for the conformance suite of trio-ws.v1. docs/protocol.md describes drivers.
 *
 *     npm run prepack
 *     python -m trio_ws.testing.conformance node --experimental-websocket conformance.mjs
 *
 * In a browser, the fragment of the page's URL contains the URL of the suite.
 */

import { Client, ConnectionLostError, RPCError, Subscription } from "trio-ws"

const control = new WebSocket(globalThis.process?.env.TRIO_WS_CONFORMANCE ?? decodeURIComponent(location.hash.slice(1)))
const report = (id, fields) => control.readyState === 1 && control.send(JSON.stringify({ id, ...fields }))

async function* each(items) {
  yield* items
}

/** The methods that the suite's server calls. */
const methods = {
  echo: (call, value) => value,
  fail(call, code, text, data) {
    throw new RPCError(text, code, data)
  },
  wait(call) {
    report("wait", { began: true })
    return new Promise((resolve) =>
      call.signal.addEventListener("abort", () => {
        report("wait", { cancelled: true })
        resolve()
      }),
    )
  },
  async *count(call, n) {
    for (let number = 0; number < n; number++) yield number
  },
  async total(call, numbers) {
    let total = 0
    for await (const number of numbers) total += number
    return total
  },
  call_back: (call, method, args) => call.call(method, args),
}

let client
let pending = new Map() // calls, streams and subscriptions, by id

/** Report the error of a call, a stream or a subscription. */
function failed(id, error) {
  if (error instanceof RPCError) report(id, { error: { code: error.code, message: error.message, data: error.data } })
  else if (error instanceof ConnectionLostError) report(id, { lost: true, may_have_run: error.mayHaveRun })
  else if (error.name === "AbortError") report(id, { cancelled: true })
  else report(id, { error: { code: null, message: String(error) } })
}

async function take(id, count) {
  const { items } = pending.get(id)
  try {
    while (count--) {
      const { done, value } = await items.next()
      if (done) return report(id, { end: true })
      if (!(items instanceof Subscription)) report(id, { item: value })
      else if (value.gap) report(id, { gap: { channel: value.channel, missing: value.missing, position: value.position } })
      else report(id, { item: { channel: value.channel, data: value.data } })
    }
  } catch (error) {
    failed(id, error)
  }
}

const actions = {
  async open({ url, reconnect }) {
    client = new Client(url, { methods, reconnect: reconnect ? { initial: 10, maximum: 100 } : false })
    client.addEventListener("packet", ({ packet }) => report(null, { packet }))
    await client.ready()
  },
  call({ id, method, args, kwargs = {}, timeout, uploads = {} }) {
    const aborter = new AbortController()
    pending.set(id, { cancel: () => aborter.abort() })
    for (const [place, items] of Object.entries(uploads)) (place in args ? args : kwargs)[place] = each(items)
    const options = { kwargs, signal: aborter.signal, timeout: timeout && timeout * 1000 }
    client.call(method, args, options).then((result) => report(id, { result }), (error) => failed(id, error))
  },
  stream({ id, method, args }) {
    const items = client.stream(method, args)
    pending.set(id, { items, cancel: () => items.return() })
  },
  async subscribe({ id, channels, recover, after, last }) {
    try {
      const items = await client.subscribe(channels, { recover, after, last })
      pending.set(id, { items, cancel: () => items.return() })
      report(id, { subscribed: true })
    } catch (error) {
      failed(id, error)
    }
  },
  take({ id, count }) {
    const one = pending.get(id)
    one.taking = Promise.resolve(one.taking).then(() => take(id, count))
  },
  cancel: ({ id }) => pending.get(id).cancel(),
  send: ({ data }) => client.send(data),
  close: () => client.close(),
  async reset() {
    await client?.close()
    pending = new Map()
    report("reset", { done: true })
  },
}

control.onopen = () => control.send(JSON.stringify({ client: "trio-ws.js", lacks: [] }))
let last = Promise.resolve()
control.onmessage = ({ data }) => {
  const instruction = JSON.parse(data)
  // Only opening is awaited. Other instructions may need a later instruction to finish.
  last = last.then(() => {
    const done = actions[instruction.do](instruction)
    return instruction.do === "open" ? done.catch(() => {}) : undefined
  })
}
