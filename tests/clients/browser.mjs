// A user of the chat page in a real browser: `node browser.mjs CHROMIUM URL STEPS`. STEPS is a JSON
// list: {say, way: "fetch" | "listen", stopAtText, until: the state that is waited for}
import { chromium } from "playwright-core";

const [executablePath, url, steps] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const seen = [];
try {
  const page = await browser.newPage();
  await page.goto(url);
  for (const { say, way, stopAtText, until } of JSON.parse(steps)) {
    await page.fill("#word", say);
    await page.click(`#${way}`);
    if (stopAtText) {
      const has = (text) => document.querySelector("#answer").textContent === text;
      await page.waitForFunction(has, stopAtText);
      await page.click("#stop");
    }
    const is = (state) => document.querySelector("#state").textContent === state;
    await page.waitForFunction(is, until, { timeout: 10_000 });
    const text = (id) => page.textContent(`#${id}`);
    const tools = await page.locator("#tools li").allTextContents();
    seen.push({ answer: await text("answer"), tools, error: await text("error") });
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
