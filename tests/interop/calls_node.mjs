// Node's built-in WebSocket: calls by JSON-RPC 2.0 and by JSON packets; prints what was answered.
const url = process.argv[2];

async function opened(protocols) {
  const ws = new WebSocket(url, protocols);
  await new Promise((done, fail) => { ws.onopen = done; ws.onerror = () => fail(new Error("refused")); });
  const received = [], waiting = [];
  ws.onmessage = (event) => {
    const packet = JSON.parse(event.data);
    if (waiting.length) waiting.shift()(packet); else received.push(packet);
  };
  const next = () => received.length ? Promise.resolve(received.shift()) : new Promise((done) => waiting.push(done));
  return {ws, next, send: (message) => ws.send(JSON.stringify(message))};
}

const seen = {};
const rpc = await opened(["jsonrpc"]);
seen.protocol = rpc.ws.protocol;
rpc.send({jsonrpc: "2.0", method: "add", params: [1, 2], id: 7});
seen.add = await rpc.next();
rpc.send({jsonrpc: "2.0", method: "count", params: [2], id: "s"});
seen.stream = [await rpc.next(), await rpc.next(), await rpc.next()];
rpc.send([{jsonrpc: "2.0", method: "add", params: {a: 1, b: 1}, id: 1}, {jsonrpc: "2.0", method: "nobody", id: 2}]);
seen.batch = (await rpc.next()).map((answer) => answer.result ?? answer.error.code);
rpc.ws.close();

const plain = await opened();
plain.send({source: 5, rpc: {type: "request", method: "add", args: [40, 2], call_id: "a"}});
seen.packets = (await plain.next()).rpc.response;
plain.send({hello: "server"});
seen.data = (await plain.next()).data;
plain.ws.close();
console.log(JSON.stringify(seen));
