// Pages in Chromium, told what to do line by line: `node pages.mjs CHROMIUM`. A line on standard input
// is JSON: [what, ...arguments]; each is answered by a line of JSON, in turn.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [executablePath] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const context = await browser.newContext({ viewport: { width: 760, height: 620 } });
const pages = [];
const LIMIT = { timeout: 15_000 };

const can = {
  async open(url) {
    const page = await context.newPage();
    await page.goto(url);
    return pages.push(page) - 1;
  },
  offline: (isOffline) => context.setOffline(isOffline),
  url: async (page) => pages[page].url(),
  type: (page, selector, text) => pages[page].fill(selector, text),
  press: (page, selector) => pages[page].click(selector, LIMIT),
  texts: (page, selector) => pages[page].locator(selector).allTextContents(),
  evaluate: (page, code) => pages[page].evaluate(code),
  // Until the code is true in the page.
  async until(page, code) {
    await pages[page].waitForFunction(code, undefined, LIMIT);
  },
};

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const [what, ...with_] = JSON.parse(line);
    let answer;
    try {
      answer = { is: (await can[what](...with_)) ?? null };
    } catch (error) {
      answer = { error: error.message };
    }
    console.log(JSON.stringify(answer));
  }
} finally {
  await browser.close();
}
