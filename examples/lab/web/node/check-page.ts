/**
 * Uses the page as people do: by mouse and by keyboard, on a phone and on a desk, dark and light; lets axe-core judge it, and takes screenshots.
 */

import { join } from "node:path";
import judgeOfAccess from "axe-core";
import { type Browser, chromium, type Page } from "playwright-core";

/** A check; `problem` is empty if it holds. */
export interface Check {
  readonly what: string;
  readonly problem: string;
}

const EXECUTABLE = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const DESK = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };
const SCHEMES = ["light", "dark"] as const;
/** A part of the recording in which disks are at work and domains are flushed. */
const RECORDED_STEPS = 40_000;
const TRACE_MILLISECONDS = 240_000;

/** Tries the page at `url`, and leaves screenshots in a folder. */
export async function checkPage(url: string, screenshots: string): Promise<readonly Check[]> {
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: ["--no-sandbox"] });
  const errors: string[] = [];
  const judge = new Judge();
  try {
    const open = async (size: typeof DESK, colorScheme: "light" | "dark"): Promise<Page> =>
      openPage(browser, url, { viewport: size, colorScheme }, errors);
    await checkPlayground(await open(DESK, "light"), judge);
    await checkKeyboard(await open(DESK, "light"), judge);
    await checkRecording(await open(DESK, "dark"), judge, screenshots);
    await checkTheme(await open(DESK, "light"), judge);
    for (const [name, size] of [
      ["desktop", DESK],
      ["phone", PHONE],
    ] as const)
      for (const scheme of SCHEMES)
        await checkLooks(await open(size, scheme), judge, join(screenshots, `${name}-${scheme}`));
    judge.equal("errors in the page", errors.join("; "), "");
    return judge.checks;
  } catch (error) {
    throw errors.length === 0 ? error : new Error(`errors in the page: ${errors.join("; ")}`, { cause: error });
  } finally {
    await browser.close();
  }
}

class Judge {
  readonly checks: Check[] = [];

  equal(what: string, found: unknown, wanted: unknown): void {
    const same = JSON.stringify(found) === JSON.stringify(wanted);
    this.checks.push({ what, problem: same ? "" : `wanted ${JSON.stringify(wanted)}, found ${JSON.stringify(found)}` });
  }

  holds(what: string, isTrue: boolean, found: unknown): void {
    this.checks.push({ what, problem: isTrue ? "" : `found ${JSON.stringify(found)}` });
  }
}

async function openPage(
  browser: Browser,
  url: string,
  options: NonNullable<Parameters<Browser["newPage"]>[0]>,
  errors: string[],
): Promise<Page> {
  // No motion: what a step did is shown at once.
  const page = await browser.newPage({ reducedMotion: "reduce", ...options });
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") errors.push(message.text());
  });
  await page.goto(url);
  await page.waitForSelector("#shadow li");
  return page;
}

/** A number of the table of totals: `"old vanished"`. */
async function total(page: Page, name: string): Promise<number> {
  return Number(((await page.textContent(`[data-total="${name}"]`)) ?? "").replaceAll(",", ""));
}

/** Until the next drawing is done. */
async function settle(page: Page): Promise<void> {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0)))));
}

async function press(page: Page, name: string): Promise<void> {
  await page.getByRole("button", { name, exact: true }).click();
  await settle(page);
}

async function listed(page: Page, id: string): Promise<string> {
  return (await page.locator(`#${id} li`).allTextContents()).join("; ");
}

async function checkPlayground(page: Page, judge: Judge): Promise<void> {
  await press(page, "Map");
  judge.holds(
    "an edit is in the tables",
    (await listed(page, "tables")).includes("0x40 → 0x140 rw not announced"),
    await listed(page, "tables"),
  );
  judge.holds("and nowhere else", !(await listed(page, "shadow")).includes("0x40 →"), await listed(page, "shadow"));
  await press(page, "IOTLB, page");
  judge.holds(
    "its invalidation announces it",
    (await listed(page, "shadow")).includes("0x40 → 0x140 rw"),
    await listed(page, "shadow"),
  );
  judge.holds(
    "the IOVA tree has it",
    (await listed(page, "tree")).includes("0x40 → 0x140 rw"),
    await listed(page, "tree"),
  );
  await press(page, "DMA read");
  judge.holds(
    "DMA fills the cache",
    (await listed(page, "cache")).includes("0x40 → 0x140"),
    await listed(page, "cache"),
  );
  await press(page, "Unmap");
  await press(page, "IOTLB, domain");
  judge.equal("a domain flush empties the cache", await listed(page, "cache"), "Nothing.");
  judge.equal("ours lost no page", await total(page, "ours vanished"), 0);
  judge.equal("the old strategy lost every live page", await total(page, "old vanished"), 524);

  for (const button of ["IOTLB, global", "Context, device", "Context, domain", "Context, global", "Off and on again"])
    await press(page, button);
  judge.equal("every granularity: ours lost no page", await total(page, "ours vanished"), 0);
  judge.holds(
    "every granularity: the old strategy lost more",
    (await total(page, "old vanished")) >= 524 * 5,
    await total(page, "old vanished"),
  );

  await page.getByText("Old: unmap all, map all").first().click();
  await settle(page);
  await page.locator("#moment").fill("1");
  await settle(page);
  judge.holds(
    "at the moment of the old strategy the shadow is empty",
    (await listed(page, "shadow")) === "Nothing.",
    await listed(page, "shadow"),
  );
  judge.holds(
    "the moment is said in words",
    ((await page.textContent("#moment-text")) ?? "").includes("unmap everything"),
    await page.textContent("#moment-text"),
  );

  await press(page, "MAP notifier");
  judge.equal("a detached notifier is told to be", await listed(page, "shadow"), "No MAP notifier is attached.");
  await press(page, "MAP notifier");
  judge.holds(
    "an attached one gets a replay",
    (await listed(page, "shadow")).includes("0x10 to 0x17"),
    await listed(page, "shadow"),
  );
  await page.getByLabel("IOVA page, hex").fill("zz");
  await press(page, "Map");
  judge.equal(
    "a wrong page is told",
    await page.textContent("#problem"),
    "The IOVA page must be a hexadecimal number.",
  );

  await press(page, "Restart");
  for (let steps = 0; steps < 14; steps += 1) await press(page, "Step");
  judge.holds(
    "the tour ends",
    ((await page.textContent("#story")) ?? "").includes("A last flush"),
    await page.textContent("#story"),
  );
  judge.equal(
    "the tour: ours lost no page and no request",
    [await total(page, "ours vanished"), await total(page, "ours failed")],
    [0, 0],
  );
  judge.holds(
    "the tour: requests failed under the old strategy",
    (await total(page, "old failed")) > 20,
    await total(page, "old failed"),
  );
  await page.close();
}

/** Everything by keyboard: a tree with one stop, arrows, Enter; a button; the switch of strategies. */
async function checkKeyboard(page: Page, judge: Judge): Promise<void> {
  const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.textContent ?? "");
  await page.locator("#tables [tabindex='0']").focus();
  await page.keyboard.press("End");
  judge.holds("keyboard: End goes to the last entry", (await focused()).includes("0x200 → 0x400"), await focused());
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowLeft");
  judge.equal("keyboard: left closes the tree", await page.locator("#tables [role=treeitem]").count(), 1);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  judge.equal("keyboard: Enter takes an entry over into the form", await page.inputValue("[name=iova]"), "200");
  for (let presses = 0; presses < 30 && (await focused()) !== "Unmap"; presses += 1) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await settle(page);
  judge.holds(
    "keyboard: Tab reaches a button, Enter presses it",
    ((await page.textContent("#story")) ?? "").includes("unmaps pages 0x200"),
    await page.textContent("#story"),
  );
  judge.equal("keyboard: the focus stays", await focused(), "Unmap");
  await page.locator("[name=strategy][value=ours]").focus();
  await page.keyboard.press("ArrowLeft");
  await settle(page);
  judge.equal("keyboard: arrows switch the strategy", await page.isChecked("[name=strategy][value=old]"), true);
  const stops = await page.locator("#tables [tabindex='0']").count();
  judge.equal("keyboard: the tree is one stop", stops, 1);
  await page.close();
}

async function checkRecording(page: Page, judge: Judge, screenshots: string): Promise<void> {
  await page.selectOption("#scene", "lazy39");
  await page.waitForFunction(() => document.querySelectorAll("#device option").length > 1);
  await press(page, "Step");
  judge.holds(
    "a recording goes step by step",
    ((await page.textContent("#story")) ?? "").startsWith("Line "),
    await page.textContent("#story"),
  );
  await press(page, "Next change");
  await press(page, "Next change");
  judge.holds(
    "and to the next change",
    ((await page.textContent("#story")) ?? "").includes("the driver writes"),
    await page.textContent("#story"),
  );
  await page.locator("#speed").fill("7");
  await press(page, "Play");
  await page.waitForTimeout(500);
  await press(page, "Pause");
  const paused = await page.textContent("#position");
  await page.waitForTimeout(300);
  judge.equal("pause pauses", await page.textContent("#position"), paused);
  await press(page, "Play");
  await page.waitForFunction(
    (steps) =>
      Number((document.getElementById("position")?.textContent ?? "").replaceAll(",", "").split(" ")[1]) >= steps,
    RECORDED_STEPS,
    { timeout: TRACE_MILLISECONDS },
  );
  await press(page, "Pause");
  judge.equal(
    "recorded: ours lost no page and no request",
    [await total(page, "ours vanished"), await total(page, "ours failed")],
    [0, 0],
  );
  judge.holds(
    "recorded: the old strategy lost pages",
    (await total(page, "old vanished")) > 50,
    await total(page, "old vanished"),
  );
  judge.holds(
    "recorded: and requests of the device",
    (await total(page, "old failed")) > 50,
    await total(page, "old failed"),
  );
  await page.screenshot({ path: join(screenshots, "recording.png"), fullPage: true });
  await page.close();
}

async function checkTheme(page: Page, judge: Judge): Promise<void> {
  const background = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.locator("[name=theme][value=dark]").check({ force: true });
  const dark = await background();
  judge.holds("the switch makes it dark", light !== dark, [light, dark]);
  await page.reload();
  await page.waitForSelector("#shadow li");
  judge.equal("and that is remembered", await background(), dark);
  await page.close();
}

/** Layout, axe-core and a picture, with something to see: the old strategy in the middle of a domain flush. */
async function checkLooks(page: Page, judge: Judge, picture: string): Promise<void> {
  const name = picture.slice(picture.lastIndexOf("/") + 1);
  for (let steps = 0; steps < 4; steps += 1) await press(page, "Step");
  await page.getByText("Old: unmap all, map all").first().click();
  await settle(page);
  await page.locator("#moment").fill("2");
  await settle(page);
  await page.addScriptTag({ content: judgeOfAccess.source });
  const violations = await page.evaluate(async () => {
    const { axe } = globalThis as unknown as {
      axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> };
    };
    return (await axe.run()).violations.map(
      ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`,
    );
  });
  judge.equal(`${name}: axe-core finds nothing`, violations, []);
  const sideways = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  judge.holds(`${name}: nothing to scroll sideways`, sideways <= 0, sideways);
  const small = await page.evaluate(
    () =>
      [...document.querySelectorAll("body *")].filter(
        (element) => element.textContent !== "" && Number.parseFloat(getComputedStyle(element).fontSize) < 11,
      ).length,
  );
  judge.equal(`${name}: no text below 11 pixels`, small, 0);
  await page.screenshot({ path: `${picture}.png`, fullPage: true });
  await page.close();
}
