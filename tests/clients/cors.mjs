// A page of one origin that asks an API of another: `node cors.mjs CHROMIUM PAGE API`.
// Prints what the page could read: of a stream by fetch and by EventSource, with cookies, and of a
// refusal.
import { chromium } from "playwright-core";

const [executablePath, page_url, api] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
try {
  const page = await browser.newPage();
  await page.goto(page_url);
  const seen = await page.evaluate(async (api) => {
    document.cookie = "session=alice; path=/";
    const asked = (credentials, thread) => ({
      method: "POST",
      credentials,
      headers: { "content-type": "application/json", "x-thread-id": thread },
      body: JSON.stringify({ message: "hello" }),
    });
    const streamed = await fetch(`${api}/chat`, asked("include", "t-1"));
    const refused = await fetch(`${api}/chat`, asked("omit", "t-1"));
    const read = async (credentials) => {
      const source = new EventSource(`${api}/chat?message=hello`, { withCredentials: credentials });
      let text = "";
      return await new Promise((resolve) => {
        source.addEventListener("token", (event) => (text += event.data));
        source.addEventListener("done", () => (source.close(), resolve(text)));
        source.addEventListener("error", () => (source.close(), resolve("failed")));
      });
    };
    return {
      fetched: [streamed.status, streamed.headers.get("x-thread-id"), await streamed.text()],
      run: (streamed.headers.get("x-run-id") ?? "").length,
      refused: [refused.status, (await refused.json()).error.type],
      listened: [await read(true), await read(false)],
    };
  }, api);
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
