// A user of examples/serve_chat.html in a real browser: `node chat_page.mjs CHROMIUM URL STEPS [PICTURES]`.
// STEPS is a JSON list: {say, stopAtTool}. With PICTURES, a folder, it also draws the page there.
import { chromium } from "playwright-core";

const [executablePath, url, steps, pictures] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const seen = [];
try {
  const page = await browser.newPage({ viewport: { width: 1000, height: 600 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  for (const { say, stopAtTool } of JSON.parse(steps)) {
    const before = await page.locator("#tools li").count();
    await page.fill("#message", say);
    await page.click("#send");
    if (stopAtTool) {
      await page.locator("#tools li").nth(before + stopAtTool - 1).waitFor();
      await page.click("#stop");
    }
    await page.locator("#send:visible").waitFor({ timeout: 10_000 });
    seen.push({
      log: await page.locator("#log p").allInnerTexts(),
      tools: await page.locator("#tools li").allInnerTexts(),
      errors,
    });
  }
  for (const [name, colorScheme, width] of [["light", "light", 1000], ["dark", "dark", 1000], ["narrow", "light", 380]]) {
    if (!pictures) break;
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 600 });
    await page.screenshot({ path: `${pictures}/${name}.png` });
  }
  const overflow = await page.setViewportSize({ width: 320, height: 600 }).then(() =>
    page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
  );
  seen.push({ overflow });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
