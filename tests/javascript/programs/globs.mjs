import { Subscription } from "trio-ws"
import { print } from "./kit.mjs"

const [globs, names] = JSON.parse(process.argv[3])
print(globs.map((glob) => names.map((name) => new Subscription(null, glob)._matches(name))))
