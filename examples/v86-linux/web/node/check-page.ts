/**
 * Looks at the page with a browser, as a person would: boots the guest in it, reads what it shows, uses it by keyboard, and takes screenshots.
 */

import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { BuildProblem } from "../../dist/guest/build-problem.js";
import { type Check, equal, holds, moreThan } from "../../dist/scenario.js";

const EXECUTABLE = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
/** A boot and all tasks, or an answer of the shell; a busy machine takes minutes. */
const PATIENCE_MILLISECONDS = 600_000;

/** Boots the page at `url`, and leaves `booting.png`, `done.png` and `narrow.png` in `screenshots`. */
export async function checkPage(url: string, screenshots: string): Promise<readonly Check[]> {
  const browser = await launch();
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 720 } });
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") errors.push(message.text());
    });
    await page.goto(url);
    await page.waitForFunction(
      () => (document.getElementById("console")?.textContent ?? "").includes("DMAR: dmar0: Using Queued invalidation"),
      undefined,
      { timeout: PATIENCE_MILLISECONDS },
    );
    await page.screenshot({ path: join(screenshots, "booting.png") });
    await page.waitForFunction(
      () => /tasks passed|Failed/.test(document.getElementById("status")?.textContent ?? ""),
      undefined,
      { timeout: PATIENCE_MILLISECONDS },
    );
    const checks = [...(await checkContents(page)), ...(await checkLayout(page)), ...(await checkKeyboard(page))];
    await page.screenshot({ path: join(screenshots, "done.png") });
    await page.setViewportSize({ width: 480, height: 900 });
    checks.push(
      holds(
        "480 pixels wide: nothing to scroll sideways",
        await page.evaluate(() => document.documentElement.scrollWidth <= 480),
      ),
    );
    await page.screenshot({ path: join(screenshots, "narrow.png"), fullPage: true });
    checks.push(equal("errors in the page", errors.join("; "), ""));
    return checks;
  } finally {
    await browser.close();
  }
}

function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: EXECUTABLE, args: ["--no-sandbox"] }).catch((error: unknown) => {
    throw new BuildProblem(
      "missing-tool",
      `Chromium could not be started from ${EXECUTABLE}: run \`sudo apt-get install --no-install-recommends chromium\`, or set CHROMIUM to its path.`,
      error,
    );
  });
}

async function checkContents(page: Page): Promise<readonly Check[]> {
  const text = async (selector: string): Promise<string> => (await page.textContent(selector)) ?? "";
  const counter = async (name: string): Promise<number> =>
    Number((await text(`[data-counter="${name}"]`)).replaceAll(",", ""));
  return [
    equal("status", await text("#status"), "All tasks passed. The shell is yours."),
    equal("vanished pages", await counter("vanished pages"), 0),
    equal("shadow and tables differ", await counter("shadow ≠ tables"), 0),
    moreThan("pages of DMA judged", await counter("pages of DMA judged"), 5_000),
    moreThan("faults shown (stale DMA of the VFIO program)", await counter("faults"), 200),
    moreThan("invalidations shown", await counter("invalidations"), 500),
    equal("devices with a map", await page.locator(".device").count(), 4),
    holds(
      "the register block says that translation is on",
      (await text("#registers")).includes("DMA translation enabled"),
    ),
    moreThan("events listed", await page.locator("#events li").count(), 20),
  ];
}

async function checkLayout(page: Page): Promise<readonly Check[]> {
  const overflowing = await page.evaluate(() => {
    const isOutside = (element: Element): boolean => {
      const { right, bottom } = element.getBoundingClientRect();
      return right > window.innerWidth + 1 || bottom > window.innerHeight + 1;
    };
    return [...document.querySelectorAll("header, section")]
      .filter(isOutside)
      .map((element) => element.className || element.tagName);
  });
  const small = await page.evaluate(
    () =>
      [...document.querySelectorAll("td, li, dt, pre, p")].filter(
        (element) => Number.parseFloat(getComputedStyle(element).fontSize) < 11,
      ).length,
  );
  return [
    equal("1280 x 720: sections that reach out of the window", overflowing.join(" "), ""),
    equal("1280 x 720: texts below 11 pixels", small, 0),
  ];
}

/** Everything by keyboard: reach the prompt with Tab, type a command, press a button. */
async function checkKeyboard(page: Page): Promise<readonly Check[]> {
  const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.id ?? "");
  await page.locator("#pause").focus();
  for (let presses = 0; presses < 10 && (await focused()) !== "command"; presses += 1) await page.keyboard.press("Tab");
  const reached = await focused();
  await page.keyboard.type("echo $((6 * 7)) by keyboard");
  await page.keyboard.press("Enter");
  const answered = await saysWithin(page, "42 by keyboard");
  await page.locator('button[data-task="disk"]').focus();
  await page.keyboard.press("Enter");
  const copied = await saysWithin(page, "fact disk bytes 3145728");
  return [
    equal("keyboard: Tab reaches the prompt", reached, "command"),
    holds("keyboard: a command is answered", answered),
    holds("keyboard: a button copies on the disk", copied),
  ];
}

function saysWithin(page: Page, text: string): Promise<boolean> {
  return page
    .waitForFunction(
      (wanted) => (document.getElementById("console")?.textContent ?? "").slice(-4_000).includes(wanted),
      text,
      { timeout: PATIENCE_MILLISECONDS },
    )
    .then(() => true)
    .catch(() => false);
}
