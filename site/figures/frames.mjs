// How long a frame of each figure takes on a slow processor: drags all that can be dragged in a headless Chromium that is slowed
// down, lets run what runs by itself, and prints a table of milliseconds.
//
//   node frames.mjs CHROMIUM [--slower 4] [name ...]
//
// Counted is the processor time of the page's main thread, so that other programs on the machine do not lengthen it: `script`, a
// frame's events and its drawing, and `all`, styles, layout and painting besides. At 60 frames a second a frame has 16.7.

import { start } from "./chromium.mjs";
import { names } from "./index.js";

const BUDGET = 1000 / 60;
const MOVES = 60;
const [chromium, ...rest] = process.argv.slice(2);
const slower = rest[0] === "--slower" ? Number(rest.splice(0, 2)[1]) : 4;
const { origin, events, errors, send, evaluate, close } = await start(chromium, import.meta.dirname);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const ask = (expression) => evaluate(`const root = document.getElementById("figure"); return (${expression});`);

async function open(name) {
  await send("Emulation.setCPUThrottlingRate", { rate: 1 });
  await send("Emulation.setDeviceMetricsOverride", { width: 390, height: 844, deviceScaleFactor: 3, mobile: true });
  await send("Page.navigate", { url: `${origin}/${name}.html` });
  for (let i = 0; i < 800; i++) {
    await sleep(25);
    if (await ask(`location.pathname === "/${name}.html" && root?.living?.numbers() ? true : false`)) break;
  }
  await send("Emulation.setCPUThrottlingRate", { rate: slower });
}

const STYLED = ["UpdateLayoutTree", "Layout", "PrePaint", "Paint", "Layerize", "Commit", "HitTest"];
const SCRIPT = ["FireAnimationFrame", "EventDispatch", "TimerFire"];

/** Script and all, in milliseconds, of each frame while `act` went on. */
async function traced(act) {
  events.length = 0;
  await send("Tracing.start", { transferMode: "ReportEvents", categories: "devtools.timeline" });
  await act();
  await send("Tracing.end");
  while (!events.some(({ method }) => method === "Tracing.tracingComplete")) await sleep(20);
  const all = events.filter(({ method }) => method === "Tracing.dataCollected").flatMap(({ params }) => params.value);
  const main = all.find(({ name }) => name === "FireAnimationFrame");
  const ours = all.filter(({ pid, tid, ph }) => pid === main?.pid && tid === main?.tid && ph === "X").sort((a, b) => a.ts - b.ts);
  const found = [];
  let current = { script: 0, rest: 0, drawn: false, ended: false };
  for (const { name, tdur = 0 } of ours) {
    if (SCRIPT.includes(name) && current.ended) {
      if (current.drawn) found.push([current.script, current.script + current.rest]);
      current = { script: 0, rest: 0, drawn: false, ended: false };
    }
    if (STYLED.includes(name)) current.rest += tdur / 1000;
    if (SCRIPT.includes(name)) current.script += tdur / 1000;
    current.drawn ||= name === "FireAnimationFrame";
    current.ended ||= name === "PrePaint"; // of a frame only what does not run scripts comes after it
  }
  if (!found.length) throw new Error(`no frame among ${all.length} events of the trace: ${[...new Set(all.map((x) => x.name))]}`);
  return found;
}

const mouse = (type, [x, y]) =>
  send("Input.dispatchMouseEvent", { type, x, y, button: "left", buttons: type === "mouseReleased" ? 0 : 1, clickCount: 1 });

/** To and fro about a place, as far as `reach`. */
async function drag([x, y], reach, level) {
  await mouse("mousePressed", [x, y]);
  for (let k = 1; k <= MOVES; k++) {
    const turn = (2 * Math.PI * k) / MOVES;
    await mouse("mouseMoved", [x + reach * Math.sin(turn), level ? y : y + reach * 0.7 * Math.sin(1.7 * turn)]);
    await sleep(40);
  }
  await mouse("mouseReleased", [x, y]);
}

const GRIPS = `[...root.shadowRoot.querySelectorAll(".handle, input[type=range]")]`;

/** The middle of a handle, or the thumb of a slider. */
const grip = (index) =>
  ask(`await new Promise((done) => {
    const node = ${GRIPS}[${index}];
    node.scrollIntoView({ block: "center" });
    requestAnimationFrame(() => {
      const b = node.getBoundingClientRect();
      const slider = node.matches("input");
      const share = slider ? (node.value - node.min) / (node.max - node.min) : 0.5;
      done({ slider, words: slider ? node.closest("label").firstChild.textContent : node.ariaLabel,
        at: [b.x + (slider ? 8 + share * (b.width - 16) : b.width / 2), b.y + b.height / 2] });
    });
  })`);

async function measured(name) {
  const rows = [];
  await open(name);
  for (let index = 0; index < (await ask(`${GRIPS}.length`)); index++) {
    await open(name);
    const place = await grip(index);
    rows.push([place.words, await traced(() => drag(place.at, place.slider ? 120 : 70, place.slider))]);
  }
  if (await ask(`root.shadowRoot.querySelector(".controls button") ? true : false`)) {
    await open(name);
    const run = async () => {
      await ask(`root.shadowRoot.querySelector(".controls button").click()`);
      for (let i = 0; i < 60 && (await ask("root.living.running()")); i++) await sleep(250);
    };
    rows.push(["by itself", await traced(run)]);
  }
  return rows;
}

const quantile = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? NaN;
const shown = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  return [0.5, 0.95, 1].map((part) => quantile(sorted, part).toFixed(1).padStart(6)).join("");
};

try {
  console.log(`processor time a frame in ms, ${slower} times slower; a frame at 60 a second has ${BUDGET.toFixed(1)}`);
  console.log(`${"".padEnd(44)}frames   script: median, 95 %, most     all: the same`);
  for (const name of rest.length ? rest : names) {
    for (const [words, frames] of await measured(name)) {
      const [script, all] = [0, 1].map((i) => shown(frames.map((times) => times[i])));
      console.log(`${name.padEnd(13)}${words.slice(0, 30).padEnd(31)}${String(frames.length).padStart(6)}   ${script}        ${all}`);
    }
    if (errors().length) throw new Error(errors().join("\n"));
  }
} finally {
  await close();
}
