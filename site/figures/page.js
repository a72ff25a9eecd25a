// Puts a living figure (see common.js) into a page: its picture, what can be dragged, its caption, and the still for print.

import { CanvasPen, DARK, finish, FONT, LIGHT } from "./common.js";

const STYLE = `
:host { display: block; margin: 0; font: 15px/1.45 ${FONT}; color: var(--ink); }
figure { margin: 0; background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 12px; }
.stage { position: relative; contain: layout; }
canvas { display: block; width: 100%; touch-action: pan-y; }
.handle { position: absolute; left: -22px; top: -22px; width: 44px; height: 44px; margin: 0; padding: 0; border: 0;
  background: none; border-radius: 50%; cursor: grab; touch-action: none; will-change: transform; }
.handle:active { cursor: grabbing; }
.handle:focus-visible, input:focus-visible, button:focus-visible { outline: 3px solid var(--Adam); outline-offset: 2px; }
.controls { display: flex; flex-wrap: wrap; gap: 6px 22px; margin-top: 10px; align-items: center; font-size: 14px; }
.controls:empty { display: none; }
label.range { display: grid; grid-template-columns: auto 5.6em; flex: 1 1 240px; column-gap: 8px; }
label.range input { grid-column: 1 / 3; width: 100%; height: 30px; margin: 0; accent-color: var(--Adam); touch-action: pan-y; }
label.range output { text-align: right; font-variant-numeric: tabular-nums; contain: strict; height: 1.45em; }
.choice { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: center; }
.choice label { display: inline-flex; align-items: center; gap: 5px; min-height: 32px; }
.choice input { accent-color: var(--Adam); margin: 0; width: 17px; height: 17px; }
.controls button { font: inherit; color: inherit; background: var(--faint); border: 1px solid var(--grid); border-radius: 6px;
  padding: 6px 14px; cursor: pointer; }
figcaption { margin-top: 10px; }
figcaption b { display: block; }
.says { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.still { display: none; width: 100%; }
@media print {
  .stage, .controls { display: none; }
  .still { display: block; }
  :host { color: #000; }
  figure { background: none; border: 0; padding: 0; break-inside: avoid; }
}`;

const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const attributes = (node, values) => {
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
  return node;
};

/** Whether the page is dark: by its own switch (data-theme of html or body), or else by the system's. */
function isDark() {
  const own = document.documentElement.dataset.theme ?? document.body.dataset.theme;
  return own === "dark" || (own !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** Puts a figure into the element `root`; what stood there (its still) is shown where no script runs. */
export function mountFigure(root, figure) {
  const canvas = attributes(element("canvas", {}), { "aria-hidden": "true" });
  const stage = element("div", { className: "stage" }, canvas);
  const controls = element("div", { className: "controls" });
  const src = new URL(`${figure.name}.svg`, import.meta.url).href;
  const printed = element("img", { className: "still", src, alt: figure.title });
  const caption = element("figcaption", {}, element("b", { textContent: figure.title }), figure.caption);
  const says = attributes(element("div", { className: "says" }), { role: "status" });
  const card = element("figure", {}, stage, printed, controls, caption, says);
  root.attachShadow({ mode: "open" }).append(element("style", { textContent: STYLE }), card);

  const state = { ...figure.state };
  const pen = new CanvasPen(canvas.getContext("2d"), LIGHT);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let [width, layout, numbers, sim] = [0, null, null, null];
  let [running, visible, asked, last, timer] = [false, true, false, 0, 0];

  function draw() {
    layout = figure.layout(width, state);
    const ratio = Math.min(devicePixelRatio || 1, 3);
    const [w, h] = [Math.round(width * ratio), Math.round(layout.height * ratio)];
    if (canvas.width !== w || canvas.height !== h) {
      Object.assign(canvas, { width: w, height: h });
      canvas.style.height = `${layout.height}px`;
    }
    pen.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.context.clearRect(0, 0, width, layout.height);
    numbers = figure.model(state, sim);
    figure.draw(pen, layout, state, numbers);
    handles.forEach((handle) => handle.place());
  }

  function frame(now) {
    asked = false;
    if (!width) return;
    const began = performance.now();
    if (running && visible) running = figure.advance(sim, state, Math.min(0.05, Math.max(0, now - last) / 1000));
    last = now;
    draw();
    root.living.cost = performance.now() - began;
    if (running && visible) ask();
  }

  function ask() {
    if (!asked) requestAnimationFrame(frame);
    asked = true;
  }

  function start(moving) {
    sim = figure.start?.(state, sim) ?? null;
    running = moving && sim !== null;
    if (!moving) finish(figure, state, sim);
    last = performance.now();
    ask();
  }

  const restarts = () => JSON.stringify(figure.restarts?.(state) ?? state);

  /** A change of the state. Dragged in the picture, the sliders follow when it is let go: their text would be laid out each frame. */
  function change(patch, dragged = false) {
    const before = restarts();
    Object.assign(state, patch);
    if (!dragged) controlled.forEach((show) => show());
    if (figure.start && before !== restarts()) start(!calm.matches);
    else if (figure.start && calm.matches) finish(figure, state, sim);
    else running = sim !== null;
    ask();
    if (!dragged) settleSoon();
  }

  function settleSoon() {
    clearTimeout(timer);
    timer = setTimeout(settle, 250);
  }

  function settle() {
    controlled.forEach((show) => show());
    if (numbers) says.textContent = figure.says(numbers, state);
  }

  const handles = (figure.handles ?? []).map((handle) => {
    const title = "Drag it, or move it with the arrow keys (with Shift ten times as far)";
    const button = attributes(element("button", { className: "handle", type: "button", title }), {
      role: "slider",
      "aria-label": handle.label,
    });
    let [offset, shown] = [null, ""];
    button.addEventListener("pointerdown", (event) => {
      const [x, y] = handle.at(layout, state, numbers);
      offset = [event.clientX - x, event.clientY - y];
      clearTimeout(timer);
      button.setPointerCapture(event.pointerId);
    });
    button.addEventListener("pointermove", (event) => {
      if (offset) change(handle.drag(event.clientX - offset[0], event.clientY - offset[1], layout, state), true);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      button.addEventListener(end, () => {
        offset = null;
        settleSoon();
      });
    }
    button.addEventListener("keydown", (event) => {
      const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in arrows)) return;
      event.preventDefault();
      const [dx, dy] = arrows[event.key].map((x) => x * (event.shiftKey ? 10 : 1));
      change(handle.key(dx, dy, state));
    });
    stage.append(button);
    return {
      at: () => handle.at(layout, state, numbers),
      drag: (x, y) => change(handle.drag(x, y, layout, state)),
      place() {
        const [x, y] = handle.at(layout, state, numbers);
        button.style.transform = `translate(${x}px, ${y}px)`;
        const value = handle.value(state, numbers);
        if (value.text !== shown) {
          shown = value.text;
          attributes(button, Object.fromEntries(Object.entries(value).map(([key, x]) => [`aria-value${key}`, x])));
        }
      },
    };
  });

  canvas.addEventListener("click", ({ offsetX: x, offsetY: y }) => {
    const far = (handle) => Math.hypot(x - handle.at()[0], y - handle.at()[1]);
    if (handles.length) handles.reduce((a, b) => (far(b) < far(a) ? b : a)).drag(x, y);
  });

  /** Radio buttons of a control with options; returns what shows the state in them. */
  function choice({ key, label, options }) {
    const inputs = options.map(() => element("input", { type: "radio", name: `${figure.name}-${key}` }));
    inputs.forEach((input, i) => input.addEventListener("change", () => change({ [key]: options[i][0] })));
    const labels = options.map(([, words], i) => element("label", {}, inputs[i], words));
    const group = element("div", { className: "choice" }, element("span", { textContent: label }), ...labels);
    controls.append(attributes(group, { role: "radiogroup", "aria-label": label }));
    return () => inputs.forEach((input, i) => (input.checked = options[i][0] === state[key]));
  }

  /** A slider; returns what shows the state in it. */
  function range({ key, label, from, to, step, show }) {
    const input = element("input", { type: "range", min: from, max: to, step });
    const output = element("output", {});
    input.addEventListener("input", () => change({ [key]: Number(input.value) }));
    controls.append(element("label", { className: "range" }, element("span", { textContent: label }), output, input));
    return () => {
      if (Number(input.value) !== state[key]) input.value = state[key];
      output.textContent = show(state[key]);
      attributes(input, { "aria-valuetext": output.textContent });
    };
  }

  const controlled = (figure.controls ?? []).map((control) => (control.options ? choice(control) : range(control)));
  if (figure.start) {
    const again = element("button", { type: "button", textContent: figure.again ?? "Run again" });
    again.addEventListener("click", () => start(true));
    controls.append(again);
  }

  function recolour() {
    pen.theme = isDark() ? DARK : LIGHT;
    for (const [name, color] of Object.entries(pen.theme)) root.style.setProperty(`--${name}`, color);
    ask();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  const page = new MutationObserver(recolour);
  for (const part of [document.documentElement, document.body]) {
    page.observe(part, { attributes: true, attributeFilter: ["data-theme"] });
  }
  new ResizeObserver(([entry]) => {
    width = Math.round(entry.contentRect.width);
    ask();
  }).observe(stage);
  new IntersectionObserver(([entry]) => {
    visible = entry.isIntersecting;
    ask();
  }).observe(stage);

  root.living = { state, change, numbers: () => numbers, running: () => running, cost: 0 }; // cost: milliseconds of the last frame
  controlled.forEach((show) => show());
  recolour();
  start(!calm.matches);
  return root.living;
}
