import { Subscription } from "trio-ws"
import { print } from "./kit.mjs"

const [globs, names] = JSON.parse(process.argv[3])
const matches = (subscription, channel) => subscription._route({ source: 2, channel, data: 0 }, 1)
print(globs.map((glob) => names.map((name) => matches(new Subscription(null, glob), name))))
