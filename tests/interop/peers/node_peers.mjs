// Servers and clients of npm packages: ws with permessage-deflate, rpc-websockets, jayson, and graphql-ws.
//
//   node node_peers.mjs FOLDER server ws OPTIONS          prints its port, and echoes
//   node node_peers.mjs FOLDER server rpc-websockets|jayson|graphql-ws
//   node node_peers.mjs FOLDER client ws OPTIONS URL      sends messages, and prints what was seen
//   node node_peers.mjs FOLDER client rpc-websockets|jayson URL
//
// FOLDER holds node_modules, and OPTIONS is the JSON of perMessageDeflate. A server ends with its input.
import { createRequire } from "node:module";
import { once } from "node:events";

const [folder, role, name, ...rest] = process.argv.slice(2);
const require = createRequire(folder + "/");

const methods = {
  add: ([a, b]) => a + b,
  fail: () => { throw new Error("no luck"); },
};

function listening(server) {
  const address = server.address();
  console.log(address.port);
  process.stdin.resume();
  process.stdin.on("end", () => process.exit(0));
}

async function serve() {
  if (name === "ws") {
    const { WebSocketServer } = require("ws");
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: JSON.parse(rest[0]) });
    server.on("connection", (ws) => ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary })));
    await once(server, "listening");
    listening(server);
  } else if (name === "rpc-websockets") {
    const { Server } = require("rpc-websockets");
    const server = new Server({ host: "127.0.0.1", port: 0 });
    await once(server, "listening");
    server.register("add", methods.add);
    server.register("fail", methods.fail);
    server.event("news");
    server.register("publish", ([text]) => { server.emit("news", text); return true; });
    listening(server.wss);
  } else if (name === "graphql-ws") {
    const { buildSchema } = require("graphql");
    const { useServer } = require("graphql-ws/use/ws");
    const { WebSocketServer } = require("ws");
    const schema = buildSchema("type Query { add(a: Int!, b: Int!): Int } type Subscription { count(to: Int!): Int }");
    const roots = {
      query: { add: ({ a, b }) => a + b },
      subscription: {
        count: async function* ({ to }) {
          for (let number = 1; number <= to; number++) yield { count: number };
        },
      },
    };
    const wss = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    useServer({ schema, roots, onConnect: ({ connectionParams }) => connectionParams?.token === "secret" }, wss);
    await once(wss, "listening");
    listening(wss);
  } else {
    const jayson = require("jayson");
    const server = new jayson.Server({
      add: (params, done) => done(null, methods.add(params)),
      fail: (params, done) => done({ code: -32000, message: "no luck", data: { why: "luck" } }),
    });
    const { WebSocketServer } = require("ws");
    const wss = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    server.websocket({ wss });
    await once(wss, "listening");
    listening(wss);
  }
}

async function call() {
  const url = rest.at(-1);
  const seen = {};
  if (name === "ws") {
    const WebSocket = require("ws");
    const ws = new WebSocket(url, { perMessageDeflate: JSON.parse(rest[0]) });
    await once(ws, "open");
    seen.extensions = ws.extensions;
    const far = Buffer.from(Array.from({ length: 20000 }, (_, i) => ((i * i) >> 3) ^ (i >> 8)));
    seen.same = [];
    for (const data of [far, far, Buffer.from("short"), Buffer.alloc(60000, "ab"), Buffer.alloc(0)]) {
      ws.send(data);
      const [got] = await once(ws, "message");
      seen.same.push(Buffer.compare(got, data) === 0);
    }
    ws.close(1000);
    seen.code = (await once(ws, "close"))[0];
  } else if (name === "rpc-websockets") {
    const { Client } = require("rpc-websockets");
    const client = new Client(url, { reconnect: false });
    await once(client, "open");
    seen.add = await client.call("add", [1, 2]);
    seen.named = await client.call("add", { a: 1, b: 1 });
    seen.error = await client.call("nobody").catch((error) => error.code);
    client.close();
  } else {
    const jayson = require("jayson");
    const client = jayson.Client.websocket({ url });
    await once(client.ws, "open");
    const request = (method, params) =>
      new Promise((done, fail) => client.request(method, params, (error, reply) => (error ? fail(error) : done(reply))));
    seen.add = (await request("add", [1, 2])).result;
    seen.named = (await request("add", { a: 1, b: 1 })).result;
    seen.error = (await request("nobody", [])).error.code;
    client.ws.close();
  }
  console.log(JSON.stringify(seen));
}

await (role === "server" ? serve() : call());
