import * as all from "trio-ws"

console.log(JSON.stringify(Object.keys(all).sort()))
