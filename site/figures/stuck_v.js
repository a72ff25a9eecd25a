// A second moment in bfloat16: it steps from tick to tick, and what is less than half a tick is rounded away.

import { axes, clamp, fixed, grip, linear, log, pair, short } from "./common.js";
import { mountFigure } from "./page.js";
import { bfloat16, neighbour, secondMoment16 } from "./steps.js";

const KEPT = 9000; // steps that the strip shows
const [LOW, HIGH] = [2 ** -12, 4];

/** v as reference.adam keeps it in bfloat16 and in float64, from the first gradients of size 1 on. */
export function start() {
  const sim = { v: 0, exact: 0, t: 0, owed: 0, trace: [] };
  for (let t = 0; t < 500; t++) step(sim, { logG: 0, memory: 3 });
  return sim;
}

/** beta2 from its memory: 1 - beta2 = 10^-memory, to four digits after the point. */
export const beta2Of = (memory) => Math.round((1 - 10 ** -memory) * 1e4) / 1e4;

/** One step with gradients of size 2^logG. */
export function step(sim, { logG, memory }) {
  const [g, beta2] = [bfloat16(2 ** logG), beta2Of(memory)];
  sim.v = secondMoment16(sim.v, g, beta2);
  sim.exact = beta2 * sim.exact + (1 - beta2) * g * g;
  sim.t += 1;
  if (sim.t % 12 === 0) sim.trace.push([sim.t, sim.v, sim.exact]);
  if (sim.trace.length > KEPT / 12) sim.trace.shift();
}

/** 900 steps a second, until the exact v has come within a hundredth of the squared gradient. */
export function advance(sim, state, seconds) {
  const settled = () => Math.abs(sim.exact / bfloat16(2 ** state.logG) ** 2 - 1) < 0.01;
  for (sim.owed += 900 * seconds; sim.owed >= 1 && !settled(); sim.owed -= 1) step(sim, state);
  return !settled();
}

/** v, the ticks about it, and where the next step would take it without rounding and takes it. */
export function model({ logG, memory }, sim) {
  const [g, beta2] = [bfloat16(2 ** logG), beta2Of(memory)];
  const { v, exact, trace, t } = sim;
  const next = secondMoment16(v, g, beta2);
  const [below, above] = [neighbour(v, -1), neighbour(v, 1)];
  return {
    v,
    exact,
    trace,
    t,
    g,
    beta2,
    wanted: beta2 * v + (1 - beta2) * g * g,
    next,
    below,
    above,
    stuck: next === v,
    over: v / exact,
  };
}

const figure = {
  name: "stuck_v",
  title: "In bfloat16 v rises and never falls",
  caption:
    "v follows the squared gradient with β₂ as its memory. In bfloat16 it lives on ticks at most 1/128 of itself apart, and a change " +
    "of less than half a tick is rounded away. Drag g² up: v rises, too fast, and stops early. Drag it down: with Adam's β₂ = 0.999 v " +
    "never falls again, however long you wait. Below β₂ = 0.996 it is free to fall, if not all the way.",
  state: { logG: -3, memory: 3 },
  model,
  start,
  advance,
  restarts: () => 0,
  layout(width) {
    const boxes = pair(width, { share: 0.53, heights: [width >= 620 ? 280 : 230, 140], top: 46, right: 20 });
    const ruler = { ...boxes.second, h: 140 };
    return { ...boxes, ruler, up: log(LOW, HIGH, boxes.first.y + boxes.first.h, boxes.first.y) };
  },
  draw(pen, { first, ruler, up }, state, { v, exact, trace, t, g, beta2, wanted, next, below, above, stuck, over }) {
    const { theme } = pen;
    const across = linear(Math.max(0, t - KEPT), Math.max(t, KEPT), first.x, first.x + first.w - 24);
    axes(pen, first, { across, up, name: "step", unit: "v", title: "The last 9,000 steps" });
    pen.clip(first, () => {
      pen.line(
        trace.flatMap(([x, , y]) => [across(x), up(y)]),
        { color: theme.soft, width: 6, alpha: 0.45 },
      );
      pen.line(
        trace.flatMap(([x, y]) => [across(x), up(y)]),
        { color: theme.Grams, width: 2.5 },
      );
    });
    const y = up(g * g);
    pen.line([first.x, y, first.x + first.w - 24, y], { color: theme.Adam, dash: [2, 5] });
    grip(pen, first.x + first.w - 10, y, theme.Adam);
    pen.text(first.x + 8, y - 7, `g² = ${short(g * g)}`, { color: theme.Adam, weight: 600, halo: true });
    const [low, high] = [neighbour(v, -3), neighbour(v, 3)];
    const at = linear(low, high, ruler.x + 8, ruler.x + ruler.w - 8);
    const line = ruler.y + 62;
    pen.text(ruler.x, ruler.y - 10, "The next step among the ticks", { weight: 600 });
    pen.area(
      [
        at(mid(below, v)),
        line - 30,
        at(mid(v, above)),
        line - 30,
        at(mid(v, above)),
        line + 12,
        at(mid(below, v)),
        line + 12,
      ],
      { color: theme.Grams, alpha: 0.15 },
    );
    pen.line([ruler.x, line, ruler.x + ruler.w, line], { color: theme.soft, width: 1.5 });
    for (let n = -3; n <= 3; n++)
      pen.line([at(neighbour(v, n)), line - 9, at(neighbour(v, n)), line + 9], { color: theme.ink, width: 2 });
    const end = clamp(at(wanted), ruler.x, ruler.x + ruler.w);
    pen.line([at(v), line - 20, end, line - 20], { color: theme.ink, width: 2 });
    pen.dot(end, line - 20, 3.5, { color: theme.ink });
    pen.dot(at(v), line, 6, { color: theme.Grams });
    if (!stuck) pen.dot(clamp(at(next), ruler.x, ruler.x + ruler.w), line, 7, { edge: theme.Grams, width: 2.5 });
    const move = ((wanted - v) / (wanted < v ? v - below : above - v)).toFixed(2).replace("-", "−");
    pen.text(ruler.x, line - 40, `β₂v + (1 − β₂)g² is ${move} ticks away`, { size: 12 });
    pen.text(ruler.x, line + 34, stuck ? "under half a tick: rounded away" : "over half a tick: v moves", {
      weight: 600,
      color: stuck ? theme.alarm : theme.ink,
    });
    pen.text(ruler.x, line + 54, `v in bfloat16: ${short(v)}`, { color: theme.Grams, weight: 600 });
    pen.text(ruler.x, line + 72, `exactly: ${short(exact)}, ratio ${fixed(over, 1)}`, {
      color: theme.soft,
      weight: 600,
    });
  },
  handles: [
    {
      label: "squared gradient",
      at: ({ first, up }, _state, { g }) => [first.x + first.w - 10, up(g * g)],
      drag: (_x, y, { up }) => ({ logG: clamp(Math.round(2 * Math.log2(up.back(y))) / 4, -5.5, 0.5) }),
      key: (dx, dy, { logG }) => ({ logG: clamp(logG + 0.25 * (dx + dy), -5.5, 0.5) }),
      value: ({ logG }, { g }) => ({ min: -5.5, max: 0.5, now: logG, text: `g squared ${short(g * g)}` }),
    },
  ],
  controls: [{ key: "memory", label: "memory β₂", from: 1, to: 4, step: 0.02, show: (x) => String(beta2Of(x)) }],
  again: "Begin again",
  says: ({ v, exact, stuck, beta2 }) =>
    `With β₂ ${beta2} v in bfloat16 is ${short(v)}, exactly it is ${short(exact)}; the next step ${stuck ? "is rounded away" : "moves it"}.`,
};

const mid = (a, b) => (a + b) / 2;

export default figure;
export const mount = (root) => mountFigure(root, figure);
