// node client.mjs DIRECTORY ORIGIN STREAM...: the npm package `eventsource`, installed in DIRECTORY, reads the streams.
// Prints what it has seen, as JSON, when every EventSource has stopped.
import { createRequire } from "node:module";
import { join } from "node:path";
import { watch } from "./watch.js";

const [directory, origin, ...streams] = process.argv.slice(2);
const { EventSource } = createRequire(join(directory, "package.json"))("eventsource");
const seen = watch(EventSource, origin, streams);
const timer = setInterval(() => {
  if (seen.every((each) => each.stopped)) {
    clearInterval(timer);
    console.log(JSON.stringify(seen));
  }
}, 100);
