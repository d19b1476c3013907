// node shot.mjs CHROMIUM URL FILE: open the page, wait until every panel has its data, take a picture.
import { chromium } from 'playwright-core';

const [executablePath, url, path] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  env: { ...process.env, LANG: 'en_US.UTF-8' },
});
const view = await browser.newPage({ viewport: { width: 1360, height: 900 } });
const errors = [];
view.on('pageerror', (error) => errors.push(error.message));
view.on('console', (line) => line.type() === 'error' && errors.push(line.text()));
await view.goto(url);
try {
  await view.waitForFunction(() => {
    const panels = [...document.querySelectorAll('[data-ready]')];
    return document.title.startsWith('failed') || (panels.length && panels.every((one) => one.dataset.ready === 'true'));
  }, null, { timeout: 30_000 });
  if ((await view.title()).startsWith('failed')) throw new Error(await view.title());
  await view.waitForTimeout(500); // two frames of drawing
  await view.locator('#page').screenshot({ path });
} catch (error) {
  console.error(error.message, ...errors.slice(0, 5));
  process.exitCode = 1;
}
await browser.close();
