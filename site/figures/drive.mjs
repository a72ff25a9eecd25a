// Drives the figures in a headless Chromium as a reader would, with mouse, finger and keys, and prints what came of it as JSON.
//
//   node drive.mjs CHROMIUM [--shots FOLDER] [name ...]
//
// Needs Node 22 or newer (a WebSocket of its own) and nothing else. With --shots it writes a picture of each figure at 390 and
// 1,280 pixels, light and dark, instead.

import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { start } from "./chromium.mjs";

const HERE = import.meta.dirname;
const [chromium, ...rest] = process.argv.slice(2);
const shots = rest[0] === "--shots" ? rest.splice(0, 2)[1] : null;
const pages = readdirSync(HERE)
  .filter((file) => file.endsWith(".html"))
  .map((file) => file.slice(0, -5));
const names = rest.length ? rest : pages.sort();
const { origin, events, errors, send, evaluate, close } = await start(chromium, HERE);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** The value of an expression in the page; `root` there is the figure's element. */
const ask = (expression) => evaluate(`const root = document.getElementById("figure"); return (${expression});`);

async function open(name, { width, dark = false, calm = false }) {
  const features = [
    { name: "prefers-color-scheme", value: dark ? "dark" : "light" },
    { name: "prefers-reduced-motion", value: calm ? "reduce" : "no-preference" },
  ];
  await send("Emulation.setDeviceMetricsOverride", {
    width,
    height: 844,
    deviceScaleFactor: width < 600 ? 2 : 1,
    mobile: width < 600,
  });
  await send("Emulation.setEmulatedMedia", { media: "", features });
  await send("Page.navigate", { url: `${origin}/${name}.html` });
  for (let i = 0; i < 800; i++) {
    await sleep(25);
    if (await ask("location.pathname.includes(" + JSON.stringify(name) + ") && root?.living?.numbers() ? true : false"))
      return;
  }
  throw new Error(`${name}.html has drawn nothing after twenty seconds; errors: ${errors().join("\n")}`);
}

const frames = (n) =>
  ask(
    `await new Promise((done) => { let n = ${n}; const f = () => (n-- ? requestAnimationFrame(f) : done(true)); f(); })`,
  );
const stateOf = () => ask("JSON.stringify(root.living.state)");
const layouts = async () => (await send("Performance.getMetrics")).metrics.find((m) => m.name === "LayoutCount").value;

async function pointer(kind, [x0, y0], [x1, y1], moves) {
  const at = (k) => ({ x: x0 + ((x1 - x0) * k) / moves, y: y0 + ((y1 - y0) * k) / moves });
  const mouse = (type, k) =>
    send("Input.dispatchMouseEvent", { type, ...at(k), button: "left", buttons: 1, clickCount: 1 });
  const touch = (type, k) =>
    send("Input.dispatchTouchEvent", { type, touchPoints: type === "touchEnd" ? [] : [at(k)] });
  const act = kind === "mouse" ? mouse : touch;
  const words =
    kind === "mouse" ? ["mousePressed", "mouseMoved", "mouseReleased"] : ["touchStart", "touchMove", "touchEnd"];
  await act(words[0], 0);
  const before = await layouts();
  const costs = [];
  for (let k = 1; k <= moves; k++) {
    await act(words[1], k);
    await frames(1);
    costs.push(await ask("root.living.cost"));
  }
  const after = await layouts();
  await act(words[2], moves);
  return { layouts: (after - before) / moves, cost: costs.sort((a, b) => a - b)[moves >> 1] };
}

async function press(key, times = 1) {
  for (let i = 0; i < times; i++) {
    for (const type of ["rawKeyDown", "keyUp"]) {
      await send("Input.dispatchKeyEvent", {
        type,
        key,
        code: key,
        windowsVirtualKeyCode: { ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40, Tab: 9 }[key],
      });
    }
  }
  await frames(2);
}

/** What a reader can do with one figure, and whether its state followed. */
async function driven(name) {
  await open(name, { width: 390 });
  const found = { handles: [], controls: [] };
  found.wide = await ask("document.documentElement.scrollWidth");
  const handles =
    await ask(`[...root.shadowRoot.querySelectorAll(".handle")].map((node) => ({ label: node.getAttribute("aria-label"),
    text: node.getAttribute("aria-valuetext"), action: getComputedStyle(node).touchAction }))`);
  for (let i = 0; i < handles.length; i++) {
    const centre = () =>
      ask(`(() => { const b = root.shadowRoot.querySelectorAll(".handle")[${i}].getBoundingClientRect();
      return [b.x + b.width / 2, b.y + b.height / 2]; })()`);
    const outcome = { ...handles[i] };
    for (const kind of ["mouse", "touch"]) {
      const before = await stateOf();
      for (const way of [1, -1]) {
        const [x, y] = await centre();
        const to = [x + way * (x > 195 ? -30 : 30), y + way * (y > 150 ? -18 : 18)];
        const { layouts, cost } = await pointer(kind, [x, y], to, 6);
        Object.assign(outcome, { [`${kind} layouts`]: layouts, [`${kind} milliseconds`]: cost });
        outcome[kind] = before !== (await stateOf());
        if (outcome[kind]) break; // else it lay at the end of its range: the other way
      }
    }
    for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) {
      await ask(`root.shadowRoot.querySelectorAll(".handle")[${i}].focus()`);
      const before = await stateOf();
      await press(key, 2);
      outcome[key] = before !== (await stateOf());
    }
    found.handles.push(outcome);
  }
  const inputs = await ask(`[...root.shadowRoot.querySelectorAll(".controls input")].map((node) => node.type)`);
  for (let i = 0; i < inputs.length; i++) {
    const before = await stateOf();
    await ask(`root.shadowRoot.querySelectorAll(".controls input")[${i}].focus()`);
    await press("ArrowLeft");
    if (before === (await stateOf())) await press("ArrowRight");
    found.controls.push({ type: inputs[i], keys: before !== (await stateOf()) });
  }
  found.focus = await ask(`getComputedStyle(root.shadowRoot.activeElement ?? document.body).outlineStyle`);
  found.says = await ask(
    `await new Promise((done) => setTimeout(() => done(root.shadowRoot.querySelector("[role=status]").textContent), 300))`,
  );
  found.blank = await ask(`(() => { const c = root.shadowRoot.querySelector("canvas");
    return !c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((x) => x); })()`);
  const paper = (theme) =>
    ask(`await new Promise((done) => { document.documentElement.dataset.theme = "${theme}";
      setTimeout(() => done(getComputedStyle(root.shadowRoot.querySelector("figure")).backgroundColor), 50); })`);
  found.themes = [await paper("light"), await paper("dark")]; // a page's own switch, whatever the system says
  await open(name, { width: 390, calm: true });
  found.calm = !(await ask("root.living.running()"));
  await send("Emulation.setEmulatedMedia", { media: "print", features: [] });
  found.print = await ask(
    `["canvas", ".controls", ".still"].map((part) => root.shadowRoot.querySelector(part).checkVisibility())`,
  );
  found.still = await ask(
    `(() => { const image = root.shadowRoot.querySelector(".still"); return image.complete && image.naturalWidth; })()`,
  );
  found.outside = events
    .filter(({ method, params }) => method === "Network.requestWillBeSent" && !params.request.url.startsWith(origin))
    .map(({ params }) => params.request.url);
  found.missing = events
    .filter(({ method, params }) => method === "Network.responseReceived" && params.response.status >= 400)
    .map(({ params }) => params.response.url);
  found.errors = errors();
  return found;
}

async function picture(name, width, dark) {
  await open(name, { width, dark, calm: true });
  await frames(3);
  const height = await ask("document.documentElement.scrollHeight");
  const clip = { x: 0, y: 0, width, height, scale: 1 };
  const { data } = await send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip });
  writeFileSync(join(shots, `${name}_${width}_${dark ? "dark" : "light"}.png`), Buffer.from(data, "base64"));
}

try {
  const result = {};
  for (const name of names) {
    events.length = 0;
    if (shots) for (const width of [390, 1280]) for (const dark of [false, true]) await picture(name, width, dark);
    else result[name] = await driven(name);
  }
  console.log(JSON.stringify(result, null, 1));
} finally {
  await close();
}
