// What an EventSource is told: [event, data] of each message, up to `done` or an error.
import { EventSource } from "eventsource";

const [url, ...names] = process.argv.slice(2);
const source = new EventSource(url);
const told = [];

function finish() {
  source.close();
  console.log(JSON.stringify(told));
}

for (const name of [...names, "error"]) {
  source.addEventListener(name, (event) => {
    if (event.data !== undefined) told.push([name, event.data]);
    if (name === "done" || name === "error") finish();
  });
}
