/**
 * trio-ws: calls, streams and channels over one WebSocket. The client for browsers, Node, Deno and Bun.
 *
 * It uses the subprotocol trio-ws.v1.json, which docs/protocol.md of trio_ws describes.
 *
 * Invariants:
 * - Each call settles once: with its result, its error, its cancellation, or the end of the connection.
 * - The queue of a stream is bounded by its credit, and the queue of a subscription by its policy.
 * - Nothing is sent, and no timer runs, for a call that is over.
 *
 * @license MIT
 */

const SUBPROTOCOL = "trio-ws.v1.json"

const MAX_TIMER = 2 ** 31 - 1 // setTimeout() fires at once past it

/** The error codes that the protocol defines. */
export const Code = Object.freeze({
  METHOD_NOT_FOUND: -32601,
  INVALID_PARAMS: -32602,
  INTERNAL_ERROR: -32603,
  RATE_LIMITED: -32000,
  APPLICATION_ERROR: -32001,
  ACCESS_DENIED: -32002,
  DEADLINE_EXCEEDED: -32003,
  CANCELLED: -32004,
})

/** A call failed on the other side, or its deadline passed. A method throws it to reject a call. */
export class RPCError extends Error {
  name = "RPCError"
  constructor(message, code = Code.APPLICATION_ERROR, data = null) {
    super(message)
    this.code = code
    this.data = data
  }
}

/** There is no connection, or it ended before the response arrived. */
export class ConnectionLostError extends Error {
  name = "ConnectionLostError"
  constructor(message, { code = 1006, reason = "", mayHaveRun = false, cause } = {}) {
    super(message, { cause })
    this.code = code
    this.reason = reason
    this.mayHaveRun = mayHaveRun
  }
}

// -- helpers ------------------------------------------------------------------------------------------

const encode = (rpc) => JSON.stringify({ source: 5, rpc })
const unless = (empty, value) => (empty ? undefined : value) // JSON leaves undefined out
const isEmpty = (object) => !Object.keys(object).length
const isStream = (value) => !!(value?.[Symbol.asyncIterator] || value?.getReader)
const isBinary = (value) => ArrayBuffer.isView(value) || value instanceof ArrayBuffer
const isPlain = (value) => typeof value !== "object" || value === null || !(isStream(value) || isBinary(value))
const ignore = () => {}

const after = (ms, action) => (ms < Infinity ? setTimeout(action, Math.min(ms, MAX_TIMER)) : undefined)

/** Encode bytes as text, and decode them. */
export function base64(data) {
  const bytes = ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data)
  let text = ""
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192))
  return btoa(text)
}
export const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))

const plain = (value) => (isBinary(value) ? base64(value) : value)

/** The length of a text in UTF-8. Credit is counted in these bytes. */
function utf8Size(text) {
  let size = text.length
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at)
    if (unit > 0x7f) size += unit > 0x7ff && (unit & 0xf800) !== 0xd800 ? 2 : 1
  }
  return size
}

/**
 * What is under way, by id. A Map would do the same, but V8 keeps values that have left it until a major garbage
 * collection, because the hash tables that a Map has outgrown refer to each other.
 */
class Table {
  size = 0
  _values = Object.create(null)

  get(id) {
    return this._values[id]
  }

  set(id, value) {
    if (!this._values[id]) this.size++
    this._values[id] = value
  }

  delete(id) {
    if (!this._values[id]) return false
    this.size--
    return delete this._values[id]
  }

  ids() {
    return Object.keys(this._values)
  }
}

async function* readAll(reader) {
  try {
    for (let read; !(read = await reader.read()).done; ) yield read.value
  } finally {
    reader.cancel().catch(ignore)
  }
}

const iterate = (items) => items[Symbol.asyncIterator]?.() ?? readAll(items.getReader())

function errorOf({ error, response, error_data }) {
  return new RPCError(typeof response === "string" ? response : JSON.stringify(response ?? ""), error, error_data)
}

/** Whether a name matches a glob of *, ?, [...] and [!...]. */
function matcher(glob) {
  const source = glob.replace(
    /\[(?!!\][^\]]*$)(!?)(\][^\]]*|[^\]]+)\]|[^]/gu,
    (all, not, set) =>
      set ? `[${not && "^"}${set.replace(/[\\\]\[^]/g, "\\$&")}]`
      : all === "*" ? ".*"
      : all === "?" ? "."
      : all.replace(/[\\^$.+()[\]{}|/]/, "\\$&")
  )
  try {
    const pattern = new RegExp(`^${source}$`, "su")
    return (name) => pattern.test(name)
  } catch {
    return () => false // such as a range that runs backwards
  }
}

// -- queues ---------------------------------------------------------------------------------------------

/** A queue with an async iterator. */
class Queue {
  _items = []
  _readers = []
  _ended = false
  _error = null

  _put(value, size) {
    this._items.push([value, size])
    this._serve()
  }

  /** Add no more items. If there is an error, it is thrown once, after the queued items. */
  _finish(error = null) {
    if (this._ended) return
    this._ended = true
    this._error = error
    this._serve()
  }

  _serve() {
    while (this._readers.length) {
      const step = this._pull()
      if (!step && !this._ended) return
      const [resolve, reject] = this._readers.shift()
      if (step || !this._error) resolve(step ?? { done: true, value: undefined })
      else {
        reject(this._error)
        this._error = null
      }
    }
  }

  _pull() {
    if (!this._items.length) return
    const [value, size] = this._items.shift()
    this._taken(size)
    return { done: false, value }
  }

  next() {
    const step = this._readers.length ? undefined : this._pull()
    if (step) return Promise.resolve(step)
    return new Promise((...reader) => {
      this._readers.push(reader)
      this._serve()
    })
  }

  async return(value) {
    const left = !this._ended
    this._items = []
    this._error = null
    this._finish()
    if (left) this._left()
    return { done: true, value }
  }

  async throw(error) {
    await this.return()
    throw error
  }

  [Symbol.asyncIterator]() {
    return this
  }

  async [Symbol.asyncDispose ?? Symbol()]() {
    await this.return()
  }
}

/** The items of a stream. Leaving the loop before its end cancels the producer. */
export class Stream extends Queue {
  _due = 0 // items since credit was given last, and their bytes
  _dueBytes = 0

  constructor({ window = 64, windowBytes = 256 * 1024 } = {}) {
    super()
    this._window = this._credits = window
    this._windowBytes = windowBytes
  }

  // Called by the session. `_source` is the request, which has the session and the id, and can cancel the stream.

  get _opening() {
    return { credits: this._window, credit_bytes: this._windowBytes }
  }

  _answer(rpc, message) {
    if (rpc.error != null) this._finish(errorOf(rpc))
    else if (rpc.is_end) this._finish()
    else if (!rpc.is_stream) this._finish(new RPCError("the method is not a stream; use call()"))
    else if (--this._credits < 0) this._source.session.misbehaved(1008, "more items than there was credit for")
    else this._put(rpc.response, utf8Size(message))
    return this._ended
  }

  _taken(size) {
    this._due++
    this._dueBytes += size
    if (this._ended || (this._due < this._window / 2 && this._dueBytes < this._windowBytes / 2)) return
    const { session, id } = this._source
    session.tell("__credit__", [id, this._due], { bytes: this._dueBytes })
    this._credits += this._due
    this._due = this._dueBytes = 0
  }

  _left() {
    this._source.cancel()
  }
}

const gapIn = (channel, position = null, missing = null) => ({ source: 2, channel, gap: true, position, missing })

/** The position of a subscription in one channel. */
class Progress {
  constructor(subscription, channel, { recover, after, last = 0 }) {
    Object.assign(this, { subscription, channel, recover, last, position: after, after: !!after, begun: false, lost: false })
    this.connectionLost()
    this.waiting ||= this.after
  }

  get start() {
    return this.position ? { after: this.position } : { last: this.last || undefined }
  }

  /** Drop packets until the server has sent the position to continue at. It sends them again. */
  connectionLost() {
    this.lost = this.begun
    this.waiting = this.recover || this.last > 0
  }

  /** The number of messages between our position and another one. Below 0 if it is unknown. */
  distance(position) {
    const [epoch, offset] = this.position ?? []
    return position && epoch === position[0] ? position[1] - offset : NaN
  }

  /** Continue at the server's position, not before our latest value, and report missing messages. */
  begin({ position, latest }) {
    const missing = this.distance(position)
    const continues = !position || !this.position ? !this.lost && !(this.after && !position) : missing === 0
    if (!continues && !latest) this.tell(position, missing)
    if (!(latest && missing < 0)) this.position = position
    this.begun = true
    this.waiting = this.lost = this.after = false
    this.last = 0
  }

  /** Whether a packet is new. */
  takes({ position }) {
    if (this.waiting || this.distance(position) <= 0) return false
    this.position = position ?? this.position
    return true
  }

  /** The server reported missing messages, or with 0, a message that is not for us. */
  skip({ position, gap }) {
    const distance = this.distance(position)
    if (this.waiting || distance <= 0) return
    if (gap) this.tell(position, distance < gap ? distance : gap)
    this.position = position
  }

  tell(position, missing) {
    this.subscription._tell(gapIn(this.channel, position, missing > 0 ? missing : null))
  }
}

/** The packets of some channels. Leaving the loop unsubscribes. */
export class Subscription extends Queue {
  /** The number of packets that were dropped because the queue was full. */
  dropped = 0
  _size = 0
  _globs = []
  _progress = new Map() // by name
  _gapsBefore = new Map() // by channel: before all that waits, and after it
  _gapsAfter = new Map()

  constructor(client, names, options = {}) {
    super()
    const { after, last } = options
    const recover = options.recover ?? !!after
    this.names = Object.freeze([...new Set(typeof names === "string" ? [names] : names)])
    for (const name of this.names) {
      if (/[*?[]/.test(name)) this._globs.push([name, matcher(name)])
      else this._progress.set(name, new Progress(this, name, { recover, last, after: Array.isArray(after) ? after : after?.[name] }))
    }
    this._client = client
    this._options = { maxItems: 64, maxBytes: 2 ** 20, policy: "drop_oldest", ...options, recover }
    this._agreed = new Promise((resolve, reject) => Object.assign(this, { _resolve: resolve, _reject: reject }))
    this._onAbort = () => {
      this._reject(options.signal.reason)
      this.return()
    }
  }

  /** Whether a packet belongs to this subscription. A new packet is queued. */
  _route(packet, size) {
    const progress = this._progress.get(packet.channel)
    const mine = progress || (packet.gap == null && this._globs.some(([, matches]) => matches(packet.channel)))
    if (packet.gap != null) progress?.skip(packet)
    else if (progress ? progress.takes(packet) : mine) this._deliver(packet, size)
    return !!mine
  }

  _deliver(packet, size) {
    if (this._ended) return
    const { maxItems, maxBytes, policy } = this._options
    while (this._items.length >= maxItems || this._size >= maxBytes) {
      const newest = policy === "drop_newest"
      const { channel, position, gap, missing = 1 } = newest ? packet : super._pull().value
      this.dropped += !gap
      this._addGap(newest ? this._gapsAfter : this._gapsBefore, gapIn(channel, position, missing))
      if (newest) return
    }
    for (const gap of this._gapsAfter.values()) this._items.push([gap, 0])
    this._gapsAfter.clear()
    this._size += size
    this._put(packet, size)
  }

  /** Messages are missing after all queued packets. */
  _tell(gap) {
    if (this._ended) return
    this._addGap(this._gapsAfter, gap)
    this._serve()
  }

  _addGap(gaps, gap) {
    if (!this._options.recover) return
    if (!gaps.has(gap.channel) && gaps.size > 63) gap = gapIn(null)
    const known = gaps.get(gap.channel)
    const together = known?.position?.[0] === gap.position?.[0] && known?.missing && gap.missing && known.missing + gap.missing
    gaps.set(gap.channel, known ? { ...gap, missing: together || null } : gap)
  }

  _pull() {
    const gaps = this._gapsBefore.size ? this._gapsBefore : this._items.length ? [] : this._gapsAfter
    for (const [channel, value] of gaps) {
      gaps.delete(channel)
      return { done: false, value }
    }
    return super._pull()
  }

  _taken(size) {
    this._size -= size
  }

  /** Subscribe on a connection. If it is lost, the next connection subscribes again. */
  _ask(session) {
    const starts = [...this._progress].filter(([, progress]) => progress.waiting)
    const plain = this.names.filter((name) => !this._progress.get(name)?.waiting)
    const requests = []
    if (plain.length) requests.push(["__subscribe__", [plain]])
    if (starts.length) requests.push(["__recover__", [Object.fromEntries(starts.map(([name, { start }]) => [name, start]))]])
    this._awaited = requests.length
    this._asked = Promise.all(requests.map((request) => this._request(session, ...request)))
  }

  _request(session, method, args) {
    return new Promise((resolve) => {
      const sink = { _answer: (rpc) => this._answer(session, method, args, rpc) ?? true, _finish: resolve }
      new Request(session, method, args, {}, sink).start()
    })
  }

  /** Handle the server's response. Packets may follow immediately, so nothing is awaited here. */
  _answer(session, method, [asked], { error, response, ...rest }) {
    if (method === "__recover__" && error === Code.METHOD_NOT_FOUND) {
      // The server keeps no histories.
      for (const name of Object.keys(asked)) this._progress.get(name).begin({})
      return void this._request(session, "__subscribe__", [Object.keys(asked)])
    }
    if (error != null) return this._end(errorOf({ error, response, ...rest }))
    if (!response) return this._end(new RPCError("the connection holds max_subscribed_channels already", Code.RATE_LIMITED))
    if (method === "__recover__") for (const name of Object.keys(asked)) this._progress.get(name).begin(response[name] ?? {})
    if (--this._awaited) return
    this._joined = true
    this._resolve()
  }

  _connectionLost() {
    for (const progress of this._progress.values()) progress.connectionLost()
    if (!this._joined) return
    for (const [channel] of this._globs) this._tell(gapIn(channel))
  }

  _end(error) {
    this._options.signal?.removeEventListener("abort", this._onAbort)
    this._client._subscriptions.delete(this)
    this._finish(error)
    this._reject(error)
  }

  _left() {
    this._client._unsubscribe(this)
    this._end()
  }
}

// -- calls ----------------------------------------------------------------------------------------------

/** An object with methods for calls: a client, one of its connections, or a call that the server made. */
class Caller extends EventTarget {
  call(method, args, options) {
    return new Promise((resolve, reject) => new UnaryRequest(this, method, args, options, resolve, reject).start())
  }

  stream(method, args, options) {
    const stream = new Stream(options)
    stream._source = new Request(this, method, args, options, stream)
    stream._source.start()
    return stream
  }

  /** Send data that is not a call. */
  send(data, options) {
    return this._whenReady(options, ({ socket }) => socket.send(JSON.stringify({ source: 4, data: plain(data) })))
  }

  _whenReady(options, action) {
    return new Promise((resolve, reject) => {
      const request = new Request(this, "", [], options, { _finish: (error) => (error ? reject(error) : resolve()) })
      request.sendOn = (session) => {
        try {
          request.end(action(session))
        } catch (error) {
          request.end(error)
        }
      }
      request.start()
    })
  }
}

/** A request that we make. It exists from before it is sent until it ends. Each call makes one, so it has few objects of its own. */
class Request {
  over = false
  session = null

  constructor(caller, method, args = [], options, sink) {
    const { kwargs, signal, timeout = Infinity } = options ?? {}
    const named = !Array.isArray(args)
    this.caller = caller
    this.method = method
    this.args = named ? [] : args
    this.kwargs = named ? args : kwargs
    this.signal = signal
    this.timeout = timeout
    this.until = timeout === Infinity ? timeout : performance.now() + timeout
    this.timer = this.uploads = undefined
    this.sink = sink
  }

  start() {
    const { signal, timeout } = this
    if (signal) {
      if (signal.aborted) return this.end(signal.reason)
      signal.addEventListener("abort", this)
    }
    this.timer = after(timeout, () => this.cancel(new RPCError("the deadline passed", Code.DEADLINE_EXCEEDED)))
    this.caller._enqueue(this)
  }

  handleEvent() {
    this.cancel(this.signal.reason)
  }

  sendOn(session) {
    const id = String(++session.lastId)
    this.session = session
    try {
      session.socket.send(this.message(id))
    } catch (error) {
      return this.end(error) // such as a BigInt, which JSON does not have
    }
    this.id = id
    session.waiting.set(id, this)
    for (const upload of this.uploads ?? []) {
      session.uploads.set(upload.id, upload)
      upload.run().catch((error) => {
        if (this.over) return
        session.respond(upload.id, { error: Code.APPLICATION_ERROR, response: "the caller's stream failed", is_stream: true, is_end: true })
        this.cancel(error)
      })
    }
  }

  /** The packet as JSON. Most requests have only a method and arguments, and are written without an object of the packet. */
  message(call_id) {
    const { method, args, kwargs, until, caller, sink } = this
    const bare = kwargs === undefined || isEmpty(kwargs)
    if (until === Infinity && !caller.nested && !sink && args.every(isPlain) && (bare || Object.values(kwargs).every(isPlain))) {
      const named = bare ? "" : `,"kwargs":${JSON.stringify(kwargs)}`
      return `{"source":5,"rpc":{"type":"request","method":${JSON.stringify(method)},"args":${JSON.stringify(args)}${named},"call_id":"${call_id}"}}`
    }
    const uploads = (this.uploads = [])
    const streams = {}
    const place = (value, key) => {
      if (!isStream(value)) return plain(value)
      streams[key] = `${call_id}/${uploads.length}`
      uploads.push(new Sender(this.session, streams[key], value, 0))
      return null
    }
    return encode({
      type: "request",
      method,
      args: args.map(place),
      kwargs: bare ? undefined : Object.fromEntries(Object.entries(kwargs).map(([key, value]) => [key, place(value, key)])),
      call_id,
      timeout: unless(until === Infinity, Math.max(0, until - performance.now()) / 1000),
      nested: caller.nested,
      ...sink?._opening,
      streams: unless(!uploads.length, streams),
    })
  }

  /** Handle a packet for this request: a response or an item. */
  answer(rpc, message) {
    if (this.sink._answer(rpc, message)) this.end()
  }

  /** Cancel the request, and send that to the server. */
  cancel(reason) {
    if (this.over) return
    this.caller._queue?.delete(this)
    this.session?.tell("__abort__", [this.id])
    this.sink?._items?.splice(0) // nobody wants what has come
    this.end(reason)
  }

  end(error) {
    if (this.over) return
    this.over = true
    if (this.timer !== undefined) clearTimeout(this.timer)
    this.signal?.removeEventListener("abort", this)
    this.session?.waiting.delete(this.id)
    for (const upload of this.uploads ?? []) {
      this.session.uploads.delete(upload.id)
      upload.stop()
    }
    this.finish(error)
  }

  finish(error) {
    this.sink._finish(error)
  }
}

/** A request with one response. */
class UnaryRequest extends Request {
  constructor(caller, method, args, options, resolve, reject) {
    super(caller, method, args, options)
    this.resolve = resolve
    this.reject = reject
  }

  answer(rpc) {
    if (rpc.error != null) return this.end(errorOf(rpc))
    if (rpc.is_stream) return this.cancel(new RPCError(`${this.method} is a stream; use stream()`))
    this.resolve(rpc.response ?? null)
    this.end()
  }

  finish(error) {
    if (error !== undefined) this.reject(error) // without an effect once it is resolved
  }
}

/** Sends the items of a stream, within the credit of the other side. */
class Sender {
  constructor(session, id, items, credits = Infinity, bytes = Infinity) {
    Object.assign(this, { session, id, credits, bytes, over: false })
    this.iterator = iterate(items)
  }

  credit(count, bytes) {
    this.credits += count
    if (bytes != null) this.bytes = (this.bytes === Infinity ? 0 : this.bytes) + bytes
    this.wake?.()
  }

  /** Resolves when the stream is over; rejects with what the iterator threw. */
  async run() {
    const { session, id, iterator } = this
    while (!this.over) {
      if (this.credits <= 0 || this.bytes <= 0) {
        await new Promise((resolve) => (this.wake = resolve))
        continue
      }
      const { done, value } = await iterator.next()
      if (this.over) return
      if (done) {
        this.over = true
        return session.respond(id, { is_stream: true, is_end: true })
      }
      const message = encode({ type: "response", call_id: id, response: plain(value), is_stream: true })
      this.credits--
      this.bytes -= utf8Size(message)
      session.write(message)
    }
  }

  /** End the iterator. */
  stop() {
    if (this.over) return
    this.over = true
    this.wake?.()
    Promise.resolve().then(() => this.iterator.return?.()).catch(ignore)
  }
}

/** A call that the server makes. The method gets this object as its first argument. */
class Call extends Caller {
  nested = true

  constructor(session, { method, args = [], kwargs = {}, call_id, timeout, credits, credit_bytes, streams = {} }) {
    super()
    const aborter = new AbortController()
    Object.assign(this, { session, client: session.client, id: call_id, method, kwargs, aborter, credits, bytes: credit_bytes })
    this.signal = aborter.signal
    this.inputs = []
    this.args = [...args]
    for (const [place, id] of Object.entries(streams)) this.open(place, id)
    session.running.set(call_id, this)
    this.deadline(timeout)
    this.run()
  }

  open(place, id) {
    const { session } = this
    const stream = new Stream()
    const end = () => session.waiting.delete(id)
    stream._source = {
      session,
      id,
      answer: (rpc, message) => stream._answer(rpc, message) && end(),
      end: (error) => stream._finish(error),
      cancel: () => end() && session.tell("__abort__", [id]),
    }
    session.waiting.set(id, stream._source)
    session.tell("__credit__", [id, stream._window], { bytes: stream._windowBytes })
    this.inputs.push(stream)
    if (place in this.args) this.args[place] = stream
    else this.kwargs[place] = stream
  }

  async run() {
    const { session, method, args, kwargs, credits } = this
    let answer
    try {
      const { methods } = session.client
      if (!Object.hasOwn(methods, method)) throw new RPCError(`there is no method '${method}'`, Code.METHOD_NOT_FOUND)
      const result = await methods[method](this, ...args, ...(isEmpty(kwargs) ? [] : [kwargs]))
      if (isStream(result)) {
        this.sender = new Sender(session, this.id, result, credits, this.bytes)
        if (this.over) this.sender.stop()
        await this.sender.run()
      } else answer = { response: plain(result) }
    } catch (error) {
      const expected = error instanceof RPCError
      if (!expected && !this.over) console.error(`trio-ws: the method ${method} failed`, error)
      answer = {
        error: expected ? error.code : Code.INTERNAL_ERROR,
        response: expected ? error.message : "internal error",
        error_data: expected ? error.data ?? undefined : undefined,
      }
    }
    this.finish(answer)
  }

  credit(count, bytes) {
    if (this.sender) return this.sender.credit(count, bytes)
    if (this.credits != null) this.credits += count
    if (bytes != null) this.bytes = (this.bytes ?? 0) + bytes
  }

  /** Set the deadline of the call to this number of seconds from now. */
  deadline(seconds) {
    clearTimeout(this.timer)
    if (seconds == null) return
    this.timer = after(seconds * 1000, () => this.stop({ error: Code.DEADLINE_EXCEEDED, response: "the deadline passed" }))
  }

  /** The deadline passed, the server cancelled the call, or the connection ended. */
  stop(answer) {
    this.finish(answer)
    this.sender?.stop()
    this.aborter.abort(new RPCError("the call is over", Code.CANCELLED))
  }

  finish(answer) {
    if (this.over) return
    this.over = true
    clearTimeout(this.timer)
    const { session, id, credits, sender } = this
    session.running.delete(id)
    for (const input of this.inputs) input.return()
    if (!answer) return
    if (answer.error && (sender || credits != null)) answer.is_stream = answer.is_end = true
    try {
      session.respond(id, answer)
    } catch {
      session.respond(id, { error: Code.INTERNAL_ERROR, response: "the result cannot be sent as JSON" })
    }
  }

  _enqueue(request) {
    this.session._enqueue(request)
  }
}

// -- connections ----------------------------------------------------------------------------------------

/** One connection, with the requests in both directions that have not ended. */
class Session extends Caller {
  lastId = 0
  waiting = new Table() // our requests, and streams that come to us, by id
  running = new Table() // the server's calls, by id
  uploads = new Table() // streams that go to the server, by id

  constructor(client, socket) {
    super()
    Object.assign(this, { client, socket })
    socket.onmessage = ({ data }) => this.take(data)
  }

  write(message) {
    if (this.socket.readyState === 1) this.socket.send(message)
  }

  tell(method, args, kwargs) {
    this.write(encode({ type: "request", method, args, kwargs }))
  }

  respond(id, fields) {
    this.write(encode({ type: "response", call_id: id, ...fields }))
  }

  _enqueue(request) {
    if (this.socket.readyState === 1 && !this.begun) request.sendOn(this)
    else request.end(new ConnectionLostError("this connection is over"))
  }

  take(message) {
    this.heard = true
    if (this.client.state === "closed") return
    try {
      if (typeof message !== "string") message = new TextDecoder("utf-8", { fatal: true }).decode(message)
      const packet = JSON.parse(message)
      const { source, rpc } = packet
      if (source === 5 && rpc.type === "response") this.waiting.get(rpc.call_id)?.answer(rpc, message)
      else if (source === 5 && rpc.type === "request") this.takeRequest(rpc)
      else if (source >= 1 && source <= 4) this.client._deliver(packet, message)
      else throw new TypeError("not a packet")
    } catch (error) {
      this.misbehaved(1007, error.message)
    }
  }

  takeRequest(rpc) {
    const { method, args: [id, value] = [], kwargs } = rpc
    const call_id = rpc.call_id || `/${++this.lastId}`
    const running = this.running.get(id) ?? this.uploads.get(id)
    const is_end = rpc.credits != null
    const refuse = (error, response) => this.respond(call_id, { error, response, is_stream: is_end, is_end })
    if (method === "__abort__") running?.stop()
    else if (method === "__credit__") running?.credit(value, kwargs?.bytes)
    else if (method === "__deadline__") running?.deadline?.(value)
    else if (method === "__goaway__") {
      this.begun = new Set(id)
      this.client._leaving(this)
    } else if (method === "__unsubscribed__") this.client._unsubscribed(id)
    else if (this.running.get(call_id)) refuse(Code.INVALID_PARAMS, "this call_id is in use")
    else if (this.running.size >= this.client.maxConcurrentCalls) refuse(Code.RATE_LIMITED, "maxConcurrentCalls is reached")
    else new Call(this, { ...rpc, call_id })
  }

  /** The server violated the protocol. A page can only close with code 1000 or 3000 to 4999. */
  misbehaved(code, reason) {
    this.socket.close(3000 + code, reason.slice(0, 40))
  }

  lost({ code, reason }) {
    for (const id of this.running.ids()) this.running.get(id)?.stop()
    for (const id of this.waiting.ids()) {
      const mayHaveRun = !this.begun || this.begun.has(id)
      this.waiting.get(id)?.end(new ConnectionLostError(`the connection ended: ${code} ${reason}`, { code, reason, mayHaveRun }))
    }
  }
}

/** A client: a connection that reconnects, and its calls. See trio-ws.d.ts. */
export class Client extends Caller {
  state = "connecting"
  error = null
  _queue = new Set() // requests that wait for a connection
  _subscriptions = new Set()
  _tries = 0
  _waits = 0

  constructor(url, options = {}) {
    super()
    const { methods = {}, token, onConnection, reconnect = {}, openTimeout = 10_000, heartbeat = 25_000, maxConcurrentCalls = 100 } = options
    Object.assign(this, { url, token, methods, onConnection, openTimeout, heartbeat, maxConcurrentCalls })
    const backoff = { initial: 500, maximum: 30_000, factor: 2, attempts: Infinity, resetAfter: 30_000, retries: () => true }
    this._backoff = Object.assign(backoff, reconnect)
    this._once = !reconnect
    this._WebSocket = options.WebSocket ?? globalThis.WebSocket
    if (!this._WebSocket) throw new TypeError("there is no WebSocket here; give one: new Client(url, { WebSocket })")
    this._online = () => this.state === "waiting" && this._dial()
    globalThis.addEventListener?.("online", this._online)
    this._closed = new Promise((resolve) => (this._resolveClosed = resolve))
    this._dial()
  }

  /** Resolves when the client is connected. Rejects when it will not connect again. */
  ready(options) {
    return this._whenReady(options, ignore)
  }

  /** Subscribe to channels. Resolves when the server has accepted. */
  async subscribe(names, options = {}) {
    options.signal?.throwIfAborted()
    if (this.state === "closed") throw this._noConnection()
    const subscription = new Subscription(this, names, options)
    this._subscriptions.add(subscription)
    if (this._session) subscription._ask(this._session)
    options.signal?.addEventListener("abort", subscription._onAbort)
    await subscription._agreed
    return subscription
  }

  /** Publish to a channel, if the server allows it. */
  async publish(channel, data, options) {
    await this.call("__publish__", [channel, data], options)
  }

  /** Extend the lifetime of the connection, if connections expire. Resolves to the seconds left, or null. */
  refresh(token, options) {
    return this.call("__refresh__", [token], options)
  }

  /** The presence of a channel: yields a Map from ids to their data, and a new one after each change. */
  async *presence(channel, options) {
    const here = new Map()
    for (;;) {
      try {
        for await (const { joined = {}, left = [], reset, more } of this.stream("__presence__", [channel], options)) {
          if (reset) here.clear()
          for (const [id, says] of Object.entries(joined)) here.set(id, says)
          for (const id of left) here.delete(id)
          if (!more) yield new Map(here)
        }
        return
      } catch (error) {
        if (!(error instanceof ConnectionLostError) || this.state === "closed") throw error
      }
    }
  }

  /** Close with a code, 1000 or 3000 to 4999. Resolves when the connection is closed. */
  close(code = 1000, reason = "") {
    const session = this._session ?? this._opening
    if (session?.running.size) session.tell("__goaway__", [session.running.ids()])
    this._finish(null)
    this._socket?.close(code, reason)
    return this._closed
  }

  async [Symbol.asyncDispose ?? Symbol()]() {
    await this.close()
  }

  // -- used by sessions and requests

  _enqueue(request) {
    if (this._session) request.sendOn(this._session)
    else if (this.state === "closed") request.end(this._noConnection())
    else this._queue.add(request)
  }

  _deliver(packet, message) {
    packet.data ??= null
    let taken = false
    if (packet.source === 2) {
      const size = utf8Size(message)
      taken = packet.gap != null
      for (const subscription of this._subscriptions) if (subscription._route(packet, size)) taken = true
    }
    if (!taken) this.dispatchEvent(Object.assign(new Event("packet"), { packet }))
  }

  async _unsubscribe(subscription) {
    await subscription._asked // else the server might come to this first
    const held = [...this._subscriptions].flatMap(({ names }) => names)
    const names = subscription.names.filter((name) => !held.includes(name))
    if (names.length) this._session?.call("__unsubscribe__", [names]).catch(ignore)
  }

  /** The server has ended a subscription. */
  _unsubscribed(name) {
    for (const subscription of this._subscriptions) {
      if (!subscription.names.includes(name)) continue
      subscription._end(new RPCError(`the server has ended the subscription to '${name}'`, Code.ACCESS_DENIED))
      if (subscription.names.length > 1) this._unsubscribe(subscription)
    }
  }

  // -- connecting

  _become(state) {
    if (this.state === "closed" || this.state === state) return
    this.state = state
    this.dispatchEvent(new Event("state"))
  }

  _noConnection() {
    return new ConnectionLostError("the client is closed", { cause: this.error })
  }

  async _dial() {
    clearTimeout(this._timer)
    this._become("connecting")
    this._tries++
    let socket
    try {
      const { url: where, token } = this
      const url = new URL(typeof where === "function" ? await where() : where, globalThis.location?.href)
      if (token !== undefined) url.searchParams.set("token", typeof token === "function" ? await token() : token)
      url.protocol = url.protocol.replace("http", "ws")
      url.hash = ""
      if (this.state === "closed") return
      socket = this._socket = new this._WebSocket(url.href, [SUBPROTOCOL])
    } catch (error) {
      return this._again(new ConnectionLostError(`cannot connect: ${error.message}`, { cause: error }))
    }
    socket.binaryType = "arraybuffer"
    let timer = after(this.openTimeout, () => socket.close())
    let session, since
    // A page cannot send pings. After a time without packets, make a call; if nothing arrives after it, end the connection.
    const listen = (asked) => {
      timer = after(this.heartbeat, () => {
        if (asked && !session.heard) {
          over({ code: 1006, reason: "the server is silent" })
          return socket.close()
        }
        if (!session.heard) session.call("__subscribe__", [[]]).catch(ignore)
        listen(!session.heard)
        session.heard = false
      })
    }
    socket.onopen = () => {
      clearTimeout(timer)
      if (socket.protocol !== SUBPROTOCOL) return socket.close(4002, `the server does not speak ${SUBPROTOCOL}`)
      since = performance.now()
      session = new Session(this, socket)
      listen(false)
      this._open(session)
    }
    const over = (event) => {
      if (this._socket !== socket) return
      clearTimeout(timer)
      if (performance.now() - since >= this._backoff.resetAfter) this._tries = this._waits = 0
      if (this._session === session) this._session = null
      this._opening = this._socket = null
      session?.lost(event)
      for (const subscription of this._subscriptions) subscription._connectionLost()
      const { code, reason } = event
      if (this.state === "closed") this._resolveClosed()
      else this._again(new ConnectionLostError(`${since ? "the connection ended" : "cannot connect"}: ${code} ${reason}`, { code, reason }))
    }
    socket.onclose = over
    socket.onerror = () => since ?? over({ code: 1006, reason: "" }) // Node 20 sends no close event if it cannot connect
  }

  /** The connection is open: log in, subscribe again, and send the waiting calls. */
  async _open(session) {
    this._opening = session
    try {
      await this.onConnection?.(session)
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) this._finish(error)
      return session.socket.close(1000)
    }
    if (this._opening !== session || session.begun || this.state === "closed") return
    this._opening = null
    this._session = session
    for (const subscription of this._subscriptions) subscription._ask(session)
    this._become("connected")
    for (const request of [...this._queue]) {
      this._queue.delete(request)
      this._enqueue(request)
    }
  }

  /** The server is going away. New calls wait for the next connection. */
  _leaving(session) {
    if (this._session === session) this._session = null
  }

  _again(error) {
    if (this.state === "closed") return
    const { initial, maximum, factor, attempts, retries } = this._backoff
    if (this._once || this._tries >= attempts || !retries(error)) return this._finish(error)
    this._become("waiting")
    this._timer = after(Math.random() * Math.min(maximum, initial * factor ** this._waits++), () => this._dial())
  }

  /** The client will not connect again. */
  _finish(error) {
    if (this.state === "closed") return
    clearTimeout(this._timer)
    globalThis.removeEventListener?.("online", this._online)
    this.error = error
    const session = this._session ?? this._opening
    this._session = this._opening = null
    this._become("closed")
    if (!this._socket) this._resolveClosed()
    session?.lost({ code: 1000, reason: "the client was closed" })
    for (const request of [...this._queue]) request.end(this._noConnection())
    this._queue.clear()
    for (const subscription of this._subscriptions) subscription._end(this._noConnection())
  }
}
