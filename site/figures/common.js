// What the living figures share: colours, numbers as text, axes, and two pens, a canvas for the screen and SVG for print.
// page.js puts a figure into a page; this module needs none, and runs in Node.
//
// A figure is an object of plain functions:
//   name, title, caption               its files' name, and what is said of it
//   state, still                       what is dragged, as numbers and names; what of it is another in print
//   layout(width, state)               where things lie: at least { height }
//   model(state, sim)                  what follows from the state, as numbers; needs no page
//   draw(pen, layout, state, numbers)  the picture
//   handles                            { label, at(layout, state, numbers), drag(x, y, layout, state), key(dx, dy, state),
//                                      value(state, numbers) }: drag and key return what changes in the state
//   controls                           { key, label, from, to, step, show(value) } or { key, label, options: [[value, words]] }
//   start(state, before), advance(sim, state, seconds)   where something runs by itself, `before` being what ran until now:
//                                      advance is true as long as it goes on
//   restarts(state)                    what of the state starts it anew when it changes (all of it, where this is left out)
//   says(numbers, state)               the picture in a sentence, for those who hear it

// Okabe and Ito's colours, lighter on a dark ground; one optimizer keeps one colour everywhere.
export const LIGHT = {
  paper: "#ffffff",
  ink: "#1b1f24",
  soft: "#59636e",
  grid: "#e3e7eb",
  faint: "#f3f5f7",
  alarm: "#b42318",
  Adam: "#0072b2",
  Grams: "#d55e00",
  Cautious: "#008a62",
  Lion: "#b4608f",
  Adams: "#a86f00",
  L2: "#0072b2",
};
export const DARK = {
  paper: "#14181d",
  ink: "#e8ebee",
  soft: "#a2adb8",
  grid: "#2d343c",
  faint: "#1d232a",
  alarm: "#ff8a7a",
  Adam: "#5ab4ea",
  Grams: "#ff8c42",
  Cautious: "#35cf9c",
  Lion: "#e6a0c8",
  Adams: "#f2b134",
  L2: "#5ab4ea",
};
export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

// --- numbers as text ---

const minus = (text) => text.replace("-", "\u2212");

/** x with so many digits after the point. */
export const fixed = (x, digits) => minus(x.toFixed(digits)).replace(/^\u2212(0(\.0+)?)$/, "$1");

/** x with three digits that count, very large and small ones as a power of ten. */
export function short(x) {
  if (x === 0) return "0";
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "undefined" : "infinite";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) {
    const [digits, exponent] = x.toExponential(1).split("e");
    return `${minus(digits)} · ${tens(Number(exponent))}`;
  }
  return minus(String(Number(x.toPrecision(3))));
}

/** 10 to a whole power, in small raised digits. */
export const tens = (n) => `10${[...String(n)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;

export const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

// --- axes ---

/** The number x in [from, to] as a place in [a, b]; `.back` is its inverse. */
export function linear(from, to, a, b) {
  const place = (x) => a + ((x - from) / (to - from)) * (b - a);
  return Object.assign(place, { from, to, back: (at) => from + ((at - a) / (b - a)) * (to - from), log: false });
}

/** The same on a logarithmic scale; numbers at or below 0 lie at the lower end. */
export function log(from, to, a, b) {
  const inner = linear(Math.log10(from), Math.log10(to), a, b);
  const place = (x) => inner(x > 0 ? Math.log10(x) : Math.log10(from));
  return Object.assign(place, { from, to, back: (at) => 10 ** inner.back(at), log: true });
}

/** Round numbers of an axis, at most about `most` of them. */
export function ticks(axis, most = 5) {
  if (axis.log) {
    const [low, high] = [Math.ceil(Math.log10(axis.from) - 1e-9), Math.floor(Math.log10(axis.to) + 1e-9)];
    const every = Math.max(1, Math.ceil((high - low + 1) / most));
    const first = Math.ceil(low / every) * every;
    return Array.from(
      { length: Math.max(0, Math.floor((high - first) / every) + 1) },
      (_, i) => 10 ** (first + i * every),
    );
  }
  const rough = (axis.to - axis.from) / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((n) => n * unit >= rough * (1 - 1e-9));
  const found = [];
  for (let i = Math.ceil(axis.from / step - 1e-9); i * step <= axis.to + 1e-9 * step; i++) found.push(i * step);
  return found;
}

const tickText = (axis, x) => (axis.log && (x >= 1e4 || x < 1e-2) ? tens(Math.round(Math.log10(x))) : short(x));

/** Grid, numbers and names of a box { x, y, w, h } with axes `across` and `up` (either may be left out). */
export function axes(pen, box, { across, up, name, unit, title, most = {}, marks = {}, text = {} }) {
  const { theme } = pen;
  const bottom = box.y + box.h;
  for (const x of across ? (marks.across ?? ticks(across, most.across ?? Math.max(4, Math.floor(box.w / 80)))) : []) {
    pen.line([across(x), box.y, across(x), bottom], { color: theme.grid });
    pen.text(across(x), bottom + 15, (text.across ?? tickText)(across, x), {
      align: "center",
      color: theme.soft,
      size: 12,
    });
  }
  for (const y of up ? (marks.up ?? ticks(up, most.up ?? Math.max(3, Math.floor(box.h / 45)))) : []) {
    pen.line([box.x, up(y), box.x + box.w, up(y)], { color: theme.grid });
    pen.text(box.x - 6, up(y) + 4, (text.up ?? tickText)(up, y), { align: "right", color: theme.soft, size: 12 });
  }
  if (name) pen.text(box.x + box.w, bottom + 31, name, { align: "right", color: theme.soft, size: 12 });
  if (unit) pen.text(box.x, box.y - 8, unit, { color: theme.soft, size: 12 });
  if (title) pen.text(box.x, box.y - (unit ? 25 : 10), title, { weight: 600 });
}

// --- pens ---
// Points are flat arrays [x0, y0, x1, y1, ...]; a NaN lifts the pen. Both pens do the same.

export class CanvasPen {
  constructor(context, theme) {
    this.context = context;
    this.theme = theme;
  }
  #trace(points) {
    this.context.beginPath();
    for (let i = 0, down = false; i < points.length; i += 2) {
      if (down) this.context.lineTo(points[i], points[i + 1]);
      else this.context.moveTo(points[i], points[i + 1]);
      down = !Number.isNaN(points[i + 1]);
    }
  }
  line(points, { color = this.theme.ink, width = 1, dash = [], alpha = 1 } = {}) {
    const c = this.context;
    [c.strokeStyle, c.lineWidth, c.globalAlpha, c.lineJoin, c.lineCap] = [color, width, alpha, "round", "round"];
    c.setLineDash(dash);
    this.#trace(points);
    c.stroke();
    c.globalAlpha = 1;
  }
  area(points, { color, alpha = 1 }) {
    [this.context.fillStyle, this.context.globalAlpha] = [color, alpha];
    this.#trace(points);
    this.context.fill();
    this.context.globalAlpha = 1;
  }
  dot(x, y, r, { color, edge, width = 2, alpha = 1 } = {}) {
    const c = this.context;
    c.globalAlpha = alpha;
    c.beginPath();
    c.arc(x, y, r, 0, 2 * Math.PI);
    if (color) {
      c.fillStyle = color;
      c.fill();
    }
    if (edge) {
      [c.strokeStyle, c.lineWidth] = [edge, width];
      c.setLineDash([]);
      c.stroke();
    }
    c.globalAlpha = 1;
  }
  text(x, y, words, { align = "left", color = this.theme.ink, size = 13, weight = 400, halo = false } = {}) {
    const c = this.context;
    [c.font, c.textAlign, c.fillStyle] = [`${weight} ${size}px ${FONT}`, align, color];
    if (halo) {
      [c.strokeStyle, c.lineWidth, c.lineJoin] = [this.theme.paper, 4, "round"];
      c.setLineDash([]);
      c.strokeText(words, x, y);
    }
    c.fillText(words, x, y);
  }
  clip(box, inside) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(box.x, box.y, box.w, box.h);
    this.context.clip();
    inside();
    this.context.restore();
  }
}

export class SvgPen {
  constructor(theme) {
    this.theme = theme;
    this.parts = [];
    this.clips = 0;
  }
  #path(points) {
    let [path, down] = ["", false];
    for (let i = 0; i < points.length; i += 2) {
      if (Number.isNaN(points[i + 1])) down = false;
      else [path, down] = [`${path}${down ? "L" : "M"}${round(points[i])} ${round(points[i + 1])}`, true];
    }
    return path;
  }
  line(points, { color = this.theme.ink, width = 1, dash = [], alpha = 1 } = {}) {
    const extra =
      (dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "") + (alpha < 1 ? ` opacity="${alpha}"` : "");
    const look = `fill="none" stroke="${color}" stroke-width="${width}" stroke-linejoin="round" stroke-linecap="round"`;
    this.parts.push(`<path d="${this.#path(points)}" ${look}${extra}/>`);
  }
  area(points, { color, alpha = 1 }) {
    this.parts.push(`<path d="${this.#path(points)}Z" fill="${color}"${alpha < 1 ? ` opacity="${alpha}"` : ""}/>`);
  }
  dot(x, y, r, { color, edge, width = 2, alpha = 1 } = {}) {
    const look = `fill="${color ?? "none"}"${edge ? ` stroke="${edge}" stroke-width="${width}"` : ""}`;
    this.parts.push(
      `<circle cx="${round(x)}" cy="${round(y)}" r="${r}" ${look}${alpha < 1 ? ` opacity="${alpha}"` : ""}/>`,
    );
  }
  text(x, y, words, { align = "left", color = this.theme.ink, size = 13, weight = 400, halo = false } = {}) {
    const anchor = { left: "start", center: "middle", right: "end" }[align];
    const edge = halo
      ? ` paint-order="stroke" stroke="${this.theme.paper}" stroke-width="4" stroke-linejoin="round"`
      : "";
    const look = `text-anchor="${anchor}" fill="${color}" font-size="${size}"${weight === 400 ? "" : ` font-weight="${weight}"`}`;
    this.parts.push(`<text x="${round(x)}" y="${round(y)}" ${look}${edge}>${escape(words)}</text>`);
  }
  clip(box, inside) {
    const id = `c${this.clips++}`;
    const edges = `x="${round(box.x)}" y="${round(box.y)}" width="${round(box.w)}" height="${round(box.h)}"`;
    this.parts.push(`<clipPath id="${id}"><rect ${edges}/></clipPath><g clip-path="url(#${id})">`);
    inside();
    this.parts.push("</g>");
  }
}

const round = (x) => String(Number(clamp(x, -1e5, 1e5).toFixed(1)) + 0);
const escape = (text) =>
  text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");

/** An arrow from one point to another, its head no longer than the arrow. */
export function arrow(pen, x0, y0, x1, y1, { color, width = 3, alpha = 1 }) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 0.5) return;
  const [dx, dy] = [(x1 - x0) / length, (y1 - y0) / length];
  const head = Math.min(5 + 2.5 * width, length);
  const [x, y] = [x1 - head * dx, y1 - head * dy];
  pen.line([x0, y0, x1 - 0.7 * head * dx, y1 - 0.7 * head * dy], { color, width, alpha });
  const side = head * 0.5;
  pen.area([x1, y1, x - side * dy, y + side * dx, x + side * dy, y - side * dx], { color, alpha });
}

/** What can be dragged: a ring. */
export function grip(pen, x, y, color = pen.theme.ink) {
  pen.dot(x, y, 9, { color: pen.theme.paper, edge: color, width: 3 });
  pen.dot(x, y, 3, { color });
}

/** Runs a simulation of this state to its end, where there is one. */
export function finish(figure, state, sim) {
  while (sim && figure.advance(sim, state, 1 / 30));
  return sim;
}

/** A figure's state as numbers: what its model says once all that runs has come to its end. For tests and stills. */
export function numbersOf(figure, patch = {}) {
  const state = { ...figure.state, ...patch };
  return figure.model(state, finish(figure, state, figure.start?.(state) ?? null));
}

/** A figure drawn by an SVG pen of this theme: { pen, layout }. */
export function drawn(figure, width, patch = {}, theme = LIGHT, numbers = numbersOf(figure, patch)) {
  const state = { ...figure.state, ...patch };
  const [layout, pen] = [figure.layout(width, state), new SvgPen(theme)];
  figure.draw(pen, layout, state, numbers);
  return { pen, layout };
}

/** The still of a figure as SVG, on white, as it is printed. */
export function still(figure, width = 720) {
  const { pen, layout } = drawn(figure, width, figure.still);
  const size = `width="${width}" height="${layout.height}" viewBox="0 0 ${width} ${layout.height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="system-ui, sans-serif" role="img">
<title>${escape(figure.title)}</title>
<rect width="${width}" height="${layout.height}" fill="${LIGHT.paper}"/>
${pen.parts.join("\n")}
</svg>
`;
}

/** Two boxes, side by side where the page is wide, else one below the other; `share` is the first one's part of the width. */
export function pair(width, { share = 0.5, heights, left = 48, right = 14, top = 30, foot = 42, gap = 44 }) {
  if (width >= 620) {
    const [h, inner] = [Math.max(...heights), width - left - right - gap - 14];
    const first = { x: left, y: top, w: share * inner, h };
    const second = { x: left + first.w + gap + 14, y: top, w: (1 - share) * inner, h };
    return { first, second, height: top + h + foot, wide: true };
  }
  const first = { x: left, y: top, w: width - left - right, h: heights[0] };
  const second = { ...first, y: top + heights[0] + foot + top, h: heights[1] };
  return { first, second, height: second.y + heights[1] + foot, wide: false };
}
