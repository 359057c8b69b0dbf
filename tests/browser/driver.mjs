/**
 * A browser that does what it is told: one JSON command per line on standard input, one JSON answer per line back.
 * node driver.mjs CHROMIUM
 */

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const WAIT_MS = 240_000;
const POLL_MS = 50;
const FLAGS = [
  "--no-sandbox",
  "--disable-dev-shm-usage",
  "--disable-gpu",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

const browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
context.setDefaultTimeout(WAIT_MS);
await context.grantPermissions(["clipboard-read", "clipboard-write"]);
const page = await context.newPage();
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.stack ?? String(error)));

const commands = {
  open: ({ url }) => page.goto(url),
  reload: () => page.reload(),
  /** The value of an expression in the page; a promise is awaited. */
  evaluate: ({ code, given }) => page.evaluate(`(async (given) => (${code}))(${JSON.stringify(given ?? null)})`),
  /** Waits until an expression, or what its promise gives, is true; returns it. */
  wait: async ({ code }) => {
    const deadline = Date.now() + WAIT_MS;
    for (;;) {
      const value = await page.evaluate(code);
      if (value) return value;
      if (Date.now() > deadline) throw new Error(`not within ${WAIT_MS / 1000} s: ${code}`);
      await page.waitForTimeout(POLL_MS);
    }
  },
  click: ({ selector }) => page.click(selector),
  text: ({ selector }) => page.innerText(selector),
  press: ({ key }) => page.keyboard.press(key),
  focus: ({ selector }) => page.focus(selector),
  offline: ({ offline }) => context.setOffline(offline),
  screenshot: async ({ path, selector }) => {
    await (selector ? page.locator(selector).first() : page).screenshot({ path, animations: "disabled" });
  },
  complaints: () => complaints.splice(0),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...given } = JSON.parse(line);
  let answer;
  try {
    const result = await commands[command](given);
    answer = { result: ["open", "reload"].includes(command) ? null : (result ?? null) };
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
