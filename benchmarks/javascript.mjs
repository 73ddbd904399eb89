// node javascript.mjs LIBRARY URL CALLS ITEMS: one line of JSON with what calls and items of a stream cost.
// LIBRARY is "trio-ws", on Node's own WebSocket, "trio-ws on ws", or "rpc-websockets" or "signalr", which are on ws, too.
// What it imports is found in a folder node_modules beside it.
const [library, url, calls, items] = [process.argv[2], process.argv[3], +process.argv[4], +process.argv[5]]
const AT_ONCE = 100

async function connect() {
  if (library === "signalr") {
    const { HttpTransportType, HubConnectionBuilder, LogLevel } = (await import("@microsoft/signalr")).default
    const options = { skipNegotiation: true, transport: HttpTransportType.WebSockets }
    const hub = new HubConnectionBuilder().withUrl(url.replace("ws", "http"), options).configureLogging(LogLevel.Error).build()
    await hub.start()
    return {
      add: (a, b) => hub.invoke("add", a, b),
      count: (n) => iterate(hub.stream("count", n)),
      close: () => hub.stop(),
    }
  }
  if (library !== "rpc-websockets") {
    const { Client } = await import("trio-ws")
    const options = library === "trio-ws" ? {} : { WebSocket: (await import("ws")).default }
    const client = new Client(url, options)
    return {
      add: (a, b) => client.call("add", [a, b]),
      count: (n) => client.stream("count", [n]),
      close: () => client.close(),
    }
  }
  const { Client } = await import("rpc-websockets")
  const client = new Client(url)
  await new Promise((resolve) => client.on("open", resolve))
  return { add: (a, b) => client.call("add", [a, b]), close: () => client.close() }
}

/** What is pushed to an observer, for a loop. SignalR has no backpressure, so everything that comes early waits here. */
async function* iterate(stream) {
  let items = []
  let over = false
  let wake
  const notify = () => wake?.()
  stream.subscribe({
    next: (item) => items.push(item) === 1 && notify(),
    complete: () => { over = true; notify() },
    error: (error) => { throw error },
  })
  while (!over || items.length) {
    if (!items.length) await new Promise((resolve) => (wake = resolve))
    const taken = items
    items = []
    yield* taken
  }
}

async function measure(count, work) {
  globalThis.gc()
  const memory = process.memoryUsage().heapUsed
  const began = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  await work()
  const spent = process.cpuUsage(cpu)
  const seconds = Number(process.hrtime.bigint() - began) / 1e9
  const grown = process.memoryUsage().heapUsed - memory
  globalThis.gc()
  return {
    cpu_us: (spent.user + spent.system) / count,
    per_s: count / seconds,
    heap_kib: grown / 1024,
    kept_heap_kib: (process.memoryUsage().heapUsed - memory) / 1024,
  }
}

const client = await connect()
async function caller(count) {
  for (let number = 0; number < count; number++) {
    if ((await client.add(number, 1)) !== number + 1) throw new Error("a wrong result")
  }
}
const callers = (count) => Promise.all(Array.from({ length: AT_ONCE }, () => caller(count / AT_ONCE)))

await callers(calls)
const result = { library, calls: await measure(calls, () => callers(calls)) }
if (client.count) {
  result.stream = await measure(items, async () => {
    let expected = 0
    for await (const item of client.count(items)) {
      if (item !== expected++) throw new Error("a wrong item")
    }
    if (expected !== items) throw new Error("items are missing")
  })
}
console.log(JSON.stringify(result))
await client.close()
process.exit(0)
