/** The page: connects what the user does with the stage, and draws the stage. */

import { describeCall } from "../../dist/steps/step-recorder.js";
import type { Strategy } from "../../dist/sessions/session.js";
import { byId, count, make, setText } from "./dom.js";
import { GuestForm } from "./guest-form.js";
import { holdersOf, tablesOf } from "./holders.js";
import { drawMap } from "./map-view.js";
import { drawPanes, remarkOn } from "./panes.js";
import { Playback } from "./playback.js";
import { drawPlot, drawTotals } from "./plot-view.js";
import { Stage } from "./stage.js";
import { connectTheme } from "./theme.js";
import { TreeView } from "./tree-view.js";

const scene = byId("scene", HTMLSelectElement);
/** What one should know of a scene before one watches it. */
const SCENE_NOTES: Readonly<Record<string, string>> = {
  playground:
    "An IOVA is the address that a device puts on the bus. A MAP notifier mirrors all that the device may reach; an UNMAP-only cache asks when it needs a page, and is flushed.",
  lazy39:
    "The driver frees pages at once and flushes whole domains later: each flush costs the old strategy every page.",
  vfio48:
    "Page-selective flushes cost the old strategy few pages: only the functions of 00:1f lose some, at flushes of their domain. Ours makes more calls, one for each leaf, so that any of them can go alone.",
};
const device = byId("device", HTMLSelectElement);
const story = byId("story", HTMLParagraphElement);
const moment = byId("moment", HTMLInputElement);
const momentText = byId("moment-text", HTMLOutputElement);
const map = byId("map", HTMLDivElement);
const plot = byId("plot", HTMLDivElement);
const totals = byId("totals", HTMLTableElement).tBodies[0] ?? make("tbody");
const log = byId("log", HTMLOListElement);
const tables = byId("tables", HTMLUListElement);
const panes = {
  tree: byId("tree", HTMLUListElement),
  shadow: byId("shadow", HTMLUListElement),
  cache: byId("cache", HTMLUListElement),
};

/** Between two drawings while a recording runs: a reader sees no more, and the machine has better to do. */
const DRAW_EVERY_MILLISECONDS = 120;

const stage = new Stage();
let isDirty = true;
let drawnAt = -Infinity;
const changed = (): void => {
  isDirty = true;
};
const playback = new Playback(stage, changed);
const tree = new TreeView(tables, {
  remark: (leaf) => remarkOn(stage, leaf),
  choose: (leaf) => {
    if (stage.playground !== undefined) guest.take(leaf);
  },
});
const guest = new GuestForm({
  get playground() {
    return stage.playground;
  },
  acted: () => {
    playback.pause();
    stage.moment = undefined;
    stage.note();
    changed();
  },
});

function draw(): void {
  const { session } = stage;
  const holders = holdersOf(stage);
  const isBusy = playback.isPlaying && stage.playground === undefined;
  // A recording at speed would talk all the time.
  story.setAttribute("aria-live", isBusy ? "off" : "polite");
  setText(story, session.story);
  setText(
    byId("position", HTMLSpanElement),
    `step ${count(session.position)} of ${count(Math.max(session.length, session.position))}`,
  );
  drawMoment();
  drawMap(map, stage, holders);
  drawPlot(plot, stage);
  drawTotals(totals, stage);
  const root = tablesOf(stage);
  tree.draw(root);
  if (root === undefined) {
    const text = "Translation is off: the device reaches all memory, page by page as it is.";
    tables.append(make("li", { role: "treeitem", tabindex: 0, class: "quiet" }, text));
  }
  drawPanes(panes, stage, holders);
  guest.draw();
  playback.draw();
  log.replaceChildren(...stage.log.map((line) => make("li", {}, line)));
}

function drawMoment(): void {
  const calls = stage.followed().recorder.last?.calls ?? [];
  const at = stage.moment ?? calls.length;
  moment.max = String(calls.length);
  moment.value = String(at);
  moment.disabled = calls.length === 0;
  const call = calls[at - 1];
  const text =
    calls.length === 0
      ? "no call to the MAP notifier yet"
      : `${count(at)} of ${count(calls.length)} ${calls.length === 1 ? "call" : "calls"}: ${call === undefined ? "before the first" : describeCall(call)}`;
  setText(momentText, text);
  moment.setAttribute("aria-valuetext", text);
}

async function openScene(): Promise<void> {
  playback.pause();
  setText(byId("scene-note", HTMLParagraphElement), SCENE_NOTES[scene.value] ?? "");
  setText(story, "Loading …");
  try {
    await stage.open(scene.value);
  } catch (error) {
    setText(story, `This scene could not be opened: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  }
  playback.suit(scene.value);
  tree.reset();
  tree.openLevels = stage.playground === undefined ? 2 : 9;
  const { devices } = stage.session.machines.ours;
  device.replaceChildren(
    ...[...devices].map(([sourceId, { name, space }]) =>
      make("option", { value: sourceId }, name === space.label ? name : `${space.label} ${name}`),
    ),
  );
  device.value = String(stage.sourceId);
  changed();
}

function connect(): void {
  connectTheme();
  scene.addEventListener("change", () => void openScene());
  byId("restart", HTMLButtonElement).addEventListener("click", () => void openScene());
  device.addEventListener("change", () => {
    stage.sourceId = Number(device.value);
    stage.moment = undefined;
    changed();
  });
  byId("strategy", HTMLFieldSetElement).addEventListener("change", (event) => {
    stage.strategy = (event.target as HTMLInputElement).value as Strategy;
    stage.moment = undefined;
    changed();
  });
  moment.addEventListener("input", () => {
    playback.pause();
    stage.moment = moment.valueAsNumber >= Number(moment.max) ? undefined : moment.valueAsNumber;
    changed();
  });
  new ResizeObserver(changed).observe(plot);
}

function frame(now: number): void {
  playback.tick(now);
  if (isDirty && now - drawnAt >= (playback.isPlaying ? DRAW_EVERY_MILLISECONDS : 0)) {
    isDirty = false;
    drawnAt = now;
    draw();
  }
  requestAnimationFrame(frame);
}

connect();
void openScene().then(() => requestAnimationFrame(frame));
