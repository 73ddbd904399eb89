/** Types of trio-ws.js. Times are in milliseconds. */

/// <reference lib="esnext.disposable" />

/** The codes of errors that have a meaning in the protocol. */
export const Code: {
  readonly METHOD_NOT_FOUND: -32601
  readonly INVALID_PARAMS: -32602
  readonly INTERNAL_ERROR: -32603
  readonly RATE_LIMITED: -32000
  readonly APPLICATION_ERROR: -32001
  readonly ACCESS_DENIED: -32002
  readonly DEADLINE_EXCEEDED: -32003
  readonly CANCELLED: -32004
}

/**
 * A call failed on the other side, or its deadline passed.
 *
 * Throw one in a method of yours to refuse a call: the server gets its text, code and data.
 */
export class RPCError extends Error {
  constructor(message: string, code?: number, data?: unknown)
  /** One of `Code`, or the method's own. */
  readonly code: number
  /** For a program: `{path}` for bad parameters, `{retry_after}` in seconds for a rate limit, `{id}` of a log line. */
  readonly data: any
}

/** There is no connection, or it ended before the answer came. */
export class ConnectionLostError extends Error {
  constructor(message: string, details?: { code?: number; reason?: string; mayHaveRun?: boolean; cause?: unknown })
  /** The close code; 1006 where there was no closing handshake. */
  readonly code: number
  /** The close reason. */
  readonly reason: string
  /** False where the method has certainly not run, so that the call can be repeated. */
  readonly mayHaveRun: boolean
}

/** Decode base64, which byte strings come in. */
export function bytes(base64: string): Uint8Array
/** Encode bytes, where a type asks for text in base64. Arguments and items may be bytes as they are, too. */
export function base64(bytes: ArrayBuffer | ArrayBufferView): string

/**
 * The methods of a server, as `trio-ws types` writes them: each takes one object of arguments by name, or one tuple of
 * arguments by position, and returns a `Promise`, or an `AsyncIterable` where it is a stream.
 */
export type Methods = { [name: string]: (params?: any) => any }
/** The data of each channel, by its name or glob, as `trio-ws types` writes it. */
export type Channels = { [name: string]: any }

type Method = (...params: any[]) => any
type StreamMethod = (...params: any[]) => AsyncIterable<any>
/** The names of the methods that are no streams, and of those that are. */
type CallName<M> = string extends keyof M ? string : { [K in keyof M & string]: M[K] extends StreamMethod ? never : K }[keyof M & string]
type StreamName<M> = string extends keyof M ? string : { [K in keyof M & string]: M[K] extends StreamMethod ? K : never }[keyof M & string]
type Result<F> = F extends (...params: any[]) => infer R ? Awaited<R> : never
type Item<F> = F extends (...params: any[]) => infer R
  ? 0 extends 1 & R // any
    ? any
    : R extends AsyncIterable<infer T>
      ? T
      : any
  : never
/** An argument that is a stream may be a `ReadableStream`, too. */
type Sendable<P> = { [K in keyof P]: Extract<P[K], AsyncIterable<any>> extends never ? P[K] : P[K] | ReadableStream }
type Rest<F, O> = F extends (...params: infer P) => any
  ? P extends []
    ? [params?: [] | Record<string, never>, options?: O]
    : P extends [infer Only]
      ? [params: Sendable<Only>, options?: O]
      : P extends [(infer Only)?]
        ? [params?: Sendable<Only>, options?: O]
        : never
  : never
/** The data of a channel of this name: its own, or that of a glob with `*` that it matches. */
type DataOf<C, N extends string> = N extends keyof C ? C[N] : string extends keyof C ? any : Known<OfGlobs<C, N>>
type OfGlobs<C, N extends string> = { [G in keyof C & string]: N extends Glob<G> ? C[G] : never }[keyof C & string]
type Known<T> = [T] extends [never] ? unknown : T
type Glob<G extends string> = G extends `${infer Before}*${infer After}` ? `${Before}${string}${Glob<After>}` : G

export interface CallOptions {
  /** Aborting it cancels the method on the server, and rejects with its reason. */
  signal?: AbortSignal
  /** The deadline: the method is cancelled after so many milliseconds, and the call rejects with `DEADLINE_EXCEEDED`. */
  timeout?: number
  /** Arguments by name, beside those by position. */
  kwargs?: Readonly<Record<string, unknown>>
}

export interface StreamOptions extends CallOptions {
  /** Items that may be under way. The producer waits while so many were not taken. Default 64. */
  window?: number
  /** Bytes that may be under way, one item on top. Default 256 KiB. */
  windowBytes?: number
}

/** What can call the server: a `Client`, one `Connection` of it, or a `Call` of the server's. */
export interface Caller<M extends object = Methods> {
  /**
   * Call a method and wait for its result. Arguments are an array, by position, or an object, by name. Those that are
   * async iterables, or `ReadableStream`s, are uploaded as the method takes their items.
   *
   * Rejects with an `RPCError`, a `ConnectionLostError`, or the reason of the signal. A client that has no connection
   * waits for one.
   */
  call<K extends CallName<M>>(method: K, ...rest: Rest<M[K & keyof M], CallOptions>): Promise<Result<M[K & keyof M]>>
  /** Call a method that is a stream: `for await (const item of client.stream("count", [3]))`. */
  stream<K extends StreamName<M>>(method: K, ...rest: Rest<M[K & keyof M], StreamOptions>): Stream<Item<M[K & keyof M]>>
  /** Send data that is not a call. Resolves when the socket has it. */
  send(data: unknown, options?: Omit<CallOptions, "kwargs">): Promise<void>
}

/**
 * The items of a stream, in order.
 *
 * Leaving the loop early, or `return()`, cancels the producer. Items are held up to the window; a consumer that pauses
 * pauses the producer.
 */
export class Stream<T = any> implements AsyncIterableIterator<T> {
  private constructor()
  next(): Promise<IteratorResult<T, undefined>>
  return(value?: any): Promise<IteratorResult<T, any>>
  throw(error?: any): Promise<IteratorResult<T, any>>
  [Symbol.asyncIterator](): this
  [Symbol.asyncDispose](): Promise<void>
}

/** A packet that is not a call. */
export interface Packet<T = any> {
  /** 1 broadcast, 2 channel, 3 unknown, 4 custom. */
  readonly source: 1 | 2 | 3 | 4
  readonly data: T
  /** The channel's name, where `source` is 2. */
  readonly channel?: string
  readonly timestamp?: number
  readonly correlation_id?: unknown
}

/** What came of a channel. */
export interface ChannelPacket<T = any> extends Packet<T> {
  readonly source: 2
  readonly channel: string
  readonly gap?: undefined
  /** Where it stands in its channel, if that keeps a history. It can be stored, and given to `subscribe` as `after`. */
  readonly position?: Position
}

/** An epoch, and an offset that counts the messages of a channel in it. */
export type Position = readonly [epoch: string, offset: number]

/** Stands where packets are missing. Subscriptions with `recover` have them. */
export interface Gap {
  readonly gap: true
  /** How many are missing; null if that is unknown. */
  readonly missing: number | null
  /** The channel, or the glob that was subscribed to; null for more channels than are counted. */
  readonly channel: string | null
  /** Of the last one that is missing, if it is known. */
  readonly position: Position | null
}

export interface SubscribeOptions {
  /** Packets that may wait. Default 64. */
  maxItems?: number
  /** Bytes of packets that may wait, one packet on top. Default 1 MiB. */
  maxBytes?: number
  /** What gives way when more would wait. Default `"drop_oldest"`. */
  policy?: "drop_oldest" | "drop_newest"
  /**
   * Miss nothing, or be told: after a lost connection, what was published meanwhile follows, in order and once, where
   * the channel has a history; a `Gap` stands where packets are missing, dropped ones too. Default false.
   */
  recover?: boolean
  /** Begin after this position; with several names, an object of positions by name. Implies `recover`. */
  after?: Position | { readonly [name: string]: Position }
  /** Begin with up to so many of the newest messages. */
  last?: number
  /** Aborting it ends the subscription. */
  signal?: AbortSignal
}

/**
 * The packets of some channels, over as many connections as the client has.
 *
 * Leaving the loop, or `return()`, unsubscribes.
 */
export class Subscription<P = ChannelPacket> implements AsyncIterableIterator<P> {
  private constructor()
  readonly names: readonly string[]
  /** How many packets the policy has dropped. */
  readonly dropped: number
  next(): Promise<IteratorResult<P, undefined>>
  return(value?: any): Promise<IteratorResult<P, any>>
  throw(error?: any): Promise<IteratorResult<P, any>>
  [Symbol.asyncIterator](): this
  [Symbol.asyncDispose](): Promise<void>
}

/** One connection of a client, as `onConnection` gets it. Its calls do not wait for another. */
export interface Connection<M extends object = Methods> extends Caller<M> {
  readonly client: Client<M, any>
  readonly socket: WebSocket
}

/** A call of the server's: the first argument of the methods of a client. */
export interface Call<M extends object = Methods> extends Caller<M> {
  readonly client: Client<M, any>
  readonly method: string
  /** Arguments by name. They are the last argument of the method, too, where there are any. */
  readonly kwargs: Record<string, any>
  /** Aborts when the server gives the call up, its deadline passes, or the connection ends. */
  readonly signal: AbortSignal
}

export interface Backoff {
  /** The upper bound of the first wait. Default 500. */
  initial?: number
  /** The upper bound of all waits. Default 30,000. */
  maximum?: number
  /** What the bound grows by. Default 2. */
  factor?: number
  /** Tries in a row after which the client gives up. Default: never. */
  attempts?: number
  /** How long a connection must have been open for the counting to begin anew. Default 30,000. */
  resetAfter?: number
  /** Whether to try again after this error. Default: always. */
  retries?(error: ConnectionLostError): boolean
}

export interface ClientOptions<M extends object = Methods> {
  /** Put into the URL as `?token=…`. A function is asked for each connection. */
  token?: string | (() => string | Promise<string>)
  /** What the server may call. A method gets the `Call`, then its arguments. An async generator is a stream. */
  methods?: Record<string, (call: Call<M>, ...args: any[]) => unknown>
  /**
   * Runs on each new connection, before anything else is sent on it, such as to log in. An error ends the client,
   * unless it is a `ConnectionLostError`.
   */
  onConnection?(connection: Connection<M>): unknown
  /** When to connect again: waits are drawn from 0 to a bound that grows. False: one connection, and one try. */
  reconnect?: Backoff | false
  /** How long a try to connect may take. Default 10,000. */
  openTimeout?: number
  /**
   * How long the server may be silent before it is asked for an answer; as long later the connection is given up, and
   * another tried for. Default 25,000; Infinity for never.
   */
  heartbeat?: number
  /** Calls of the server's that run at once; more are refused. Default 100. */
  maxConcurrentCalls?: number
  /** The class to use where there is no global `WebSocket`, such as that of the package `ws`. */
  WebSocket?: unknown
}

export type ClientState = "connecting" | "connected" | "waiting" | "closed"

/**
 * Calls the methods of a server over a WebSocket that comes back by itself.
 *
 * Events: `"state"` when `state` has changed, and `"packet"`, whose `packet` is one that no subscription took.
 */
export class Client<M extends object = Methods, C extends object = Channels> extends EventTarget implements Caller<M> {
  /**
   * @param url `ws:`, `wss:`, `http:` or `https:`, absolute or relative to the page; or a function that is asked for
   * each connection.
   */
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: ClientOptions<M>)
  readonly state: ClientState
  /** Why the client gave up; null where it did not. */
  readonly error: Error | null
  call<K extends CallName<M>>(method: K, ...rest: Rest<M[K & keyof M], CallOptions>): Promise<Result<M[K & keyof M]>>
  stream<K extends StreamName<M>>(method: K, ...rest: Rest<M[K & keyof M], StreamOptions>): Stream<Item<M[K & keyof M]>>
  send(data: unknown, options?: Omit<CallOptions, "kwargs">): Promise<void>
  /** Resolves when there is a connection; rejects once there will be none. */
  ready(options?: Omit<CallOptions, "kwargs">): Promise<void>
  /** Subscribe to channels, and to globs where the server allows them. Resolves when it has agreed. */
  subscribe<N extends string>(
    names: N | readonly N[],
    options: SubscribeOptions & ({ recover: true } | { recover?: true; after: NonNullable<SubscribeOptions["after"]> }),
  ): Promise<Subscription<ChannelPacket<DataOf<C, N>> | Gap>>
  subscribe<N extends string>(
    names: N | readonly N[],
    options?: SubscribeOptions,
  ): Promise<Subscription<ChannelPacket<DataOf<C, N>>>>
  /** Publish to a channel, where the handler's `may_publish` allows it. Resolves when the server has. */
  publish(channel: string, data: unknown, options?: Omit<CallOptions, "kwargs">): Promise<void>
  /**
   * Ask to stay connected longer, where connections expire; the handler's `may_refresh` decides. Resolves to the
   * seconds after which this connection expires, or null if it does not.
   */
  refresh(token: unknown, options?: Omit<CallOptions, "kwargs">): Promise<number | null>
  /**
   * Who is present in a channel, over as many connections as the client has: a `Map` from the ids of members to what
   * they say of themselves; first that of now, then one after each change.
   */
  presence<T = any>(channel: string, options?: StreamOptions): AsyncGenerator<Map<string, T>, void>
  /** Close, with 1000 or 3000 to 4999. What is under way fails. Resolves when the connection is closed. */
  close(code?: number, reason?: string): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
  addEventListener(type: "state", listener: (event: Event) => void, options?: AddEventListenerOptions | boolean): void
  addEventListener(
    type: "packet",
    listener: (event: Event & { readonly packet: Packet }) => void,
    options?: AddEventListenerOptions | boolean,
  ): void
}
