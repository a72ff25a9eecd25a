// A bowl in the plane, rotated: how many steps each rule needs at its own best learning rate. (Claim G11.)

import { arrow, axes, clamp, fixed, grip, linear, pair } from "./common.js";
import { mountFigure } from "./page.js";
import { init, normals, rules } from "./steps.js";

const RULES = ["Adam", "Cautious", "Grams"];
const LINE = { Adam: 2.5, Cautious: 2, Grams: 1.5 };
const [TOLERANCE, HOLD, BUDGET, RUNS] = [1e-6, 50, 700, 8]; // as the races of reference.theory.descent_runs
const LRS = Array.from({ length: 21 }, (_, i) => 10 ** (-2 + i / 5));

/** The Hessian with eigenvalues 1 and 1 / kappa, the flat direction `degrees` away from the first axis. */
export function hessian(degrees, kappa) {
  const [c, s, flat] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180), 1 / kappa];
  return [
    [s * s + flat * c * c, (flat - 1) * s * c],
    [(flat - 1) * s * c, c * c + flat * s * s],
  ];
}

/** Points of the plane from standard normal numbers, as one vector x0, y0, x1, y1, ... */
export function starts(seed, runs = RUNS) {
  const draw = normals(seed);
  return Array.from({ length: 2 * runs }, draw);
}

function gradient([[a, b], [, d]], w) {
  const g = new Array(w.length);
  for (let i = 0; i < w.length; i += 2) [g[i], g[i + 1]] = [a * w[i] + b * w[i + 1], b * w[i] + d * w[i + 1]];
  return g;
}

const loss = (w, g, run) => (w[2 * run] * g[2 * run] + w[2 * run + 1] * g[2 * run + 1]) / 2;

/**
 * Median over the runs of the steps until the loss is at most the tolerance times the first one, and stays so for HOLD steps;
 * pauses now and then, so that a slow machine can draw between.
 */
export function* race(rule, a, w, lr, limit) {
  let [g, state] = [gradient(a, w), init(w)];
  const runs = w.length / 2;
  const goal = Array.from({ length: runs }, (_, run) => TOLERANCE * loss(w, g, run));
  const [held, found] = [goal.map(() => 0), goal.map(() => Infinity)];
  for (let [t, left] = [1, runs]; t <= limit + HOLD && left > 0; t++) {
    if (t % 50 === 0) yield;
    [w, state] = rules[rule](w, g, state, { lr });
    g = gradient(a, w);
    for (let run = 0; run < runs; run++) {
      held[run] = loss(w, g, run) <= goal[run] ? held[run] + 1 : 0;
      if (held[run] === HOLD && found[run] === Infinity) [found[run], left] = [t - HOLD + 1, left - 1];
    }
  }
  found.sort((x, y) => x - y);
  return (found[(found.length - 1) >> 1] + found[found.length >> 1]) / 2;
}

/** The races of one bowl, run a little at a time: the whole grid of learning rates for each rule. */
export function start({ degrees, logKappa }, previous, seed = 2) {
  const best = Object.fromEntries(RULES.map((name) => [name, { steps: Infinity, lr: NaN }]));
  const before = previous && (previous.todo.length ? previous.before : previous.best);
  const near = (lr, name) => Math.abs(Math.log(lr / (before?.[name].lr || 1))); // the sooner a good one, the shorter the others
  const todo = RULES.flatMap((name) => [...LRS].sort((a, b) => near(a, name) - near(b, name)).map((lr) => [name, lr]));
  return { a: hessian(degrees, 10 ** logKappa), from: starts(seed), todo, best, before, now: null };
}

/** Races for about 4 milliseconds. */
export function advance(sim) {
  for (const until = performance.now() + 4; sim.todo.length && performance.now() < until;) {
    const [name, lr] = sim.todo[0];
    const best = sim.best[name];
    sim.now ??= race(name, sim.a, sim.from, lr, Math.min(BUDGET, 2 * best.steps)); // a median of two below the best one ends there
    const { value, done } = sim.now.next();
    if (!done) continue;
    if (value < best.steps || (value === best.steps && lr < best.lr)) sim.best[name] = { steps: value, lr };
    sim.now = null;
    sim.todo.shift();
  }
  return sim.todo.length > 0;
}

/** Steps and best learning rate of each rule (while it still counts: those before), and a path of each at that rate. */
export function model({ degrees, logKappa }, sim) {
  const counting = sim.todo.length > 0;
  const best = counting ? (sim.before ?? sim.best) : sim.best;
  const paths = {};
  for (const name of RULES) {
    let [w, state] = [START, init(START)];
    paths[name] = [...w];
    const lr = Number.isFinite(best[name].lr) ? best[name].lr : 1;
    for (let t = 0; t < 120; t++) {
      [w, state] = rules[name](w, gradient(sim.a, w), state, { lr });
      paths[name].push(...w);
    }
  }
  return { best, counting, paths, lead: best.Adam.steps / best.Grams.steps, kappa: 10 ** logKappa, degrees };
}

const START = [-1.2, 0.35];

const figure = {
  name: "rotated_bowl",
  title: "Rotate the bowl: Grams' lead of four melts away, and Cautious wins",
  caption:
    "Each rule takes its own best of 21 learning rates; counted are the steps until the loss has fallen to a millionth, the median of " +
    "eight starts. Along the axes Grams needs a quarter of Adam's steps. Turn the valley away from the axes: at a condition number of " +
    "100 and 45° the lead is gone, at 316 Adam is faster, and Cautious, which waits where Grams turns back, is the fastest of the three.",
  state: { degrees: 0, logKappa: 2 },
  still: { degrees: 45 },
  start,
  advance,
  model,
  layout(width) {
    const wide = width >= 620;
    const size = Math.min(wide ? 0.4 * width : width - 60, 330);
    const boxes = pair(width, { heights: [size, 150], top: 16 });
    const plane = { ...boxes.first, w: size, h: size };
    const bars = wide
      ? { x: plane.x + size + 110, y: 70, w: width - plane.x - size - 170, h: 150 }
      : { ...boxes.second, x: 86, y: boxes.second.y + 24, w: width - 146 };
    const height = wide ? plane.y + size + 42 : bars.y + 160;
    return {
      plane,
      bars,
      height,
      wide,
      across: linear(-1.4, 1.4, plane.x, plane.x + size),
      up: linear(-1.4, 1.4, plane.y + size, plane.y),
      along: linear(0, 450, bars.x, bars.x + bars.w),
    };
  },
  draw(pen, { plane, bars, across, up, along, wide }, { degrees }, { best, counting, paths, lead, kappa }) {
    const { theme } = pen;
    axes(pen, plane, { across, up, name: "w₁ (upwards w₂)", most: { across: 4, up: 4 } });
    const turn = (degrees * Math.PI) / 180;
    const [c, s] = [Math.cos(turn), Math.sin(turn)];
    pen.clip(plane, () => {
      for (const level of [0.02, 0.08, 0.2, 0.45, 0.9]) {
        const [long, wideness] = [Math.sqrt(2 * level * kappa), Math.sqrt(2 * level)];
        const ring = Array.from({ length: 73 }, (_, i) => (i * Math.PI) / 36);
        pen.line(
          ring.flatMap((x) => {
            const [p, q] = [long * Math.cos(x), wideness * Math.sin(x)];
            return [across(p * c - q * s), up(p * s + q * c)];
          }),
          { color: theme.soft, alpha: 0.5 },
        );
      }
      for (const name of RULES) {
        const points = paths[name].map((x, i) => (i % 2 ? up(clamp(x, -9, 9)) : across(clamp(x, -9, 9))));
        pen.line(points, { color: theme[name], width: LINE[name], alpha: counting ? 0.4 : 1 });
      }
    });
    pen.area(square(across(START[0]), up(START[1]), 5), { color: theme.ink });
    const r = radius(kappa);
    arrow(pen, across(0), up(0), across(r * c), up(r * s), { color: theme.ink, width: 2 });
    grip(pen, across(r * c), up(r * s));
    const left = wide ? bars.x - 66 : 20;
    pen.text(left, bars.y - 12, "Steps to a millionth of the loss", { weight: 600 });
    RULES.forEach((name, i) => {
      const y = bars.y + 22 + 44 * i;
      const value = best[name].steps;
      const to = along(clamp(value, 0, 450));
      pen.area([bars.x, y - 12, to, y - 12, to, y + 12, bars.x, y + 12], {
        color: theme[name],
        alpha: counting ? 0.4 : 1,
      });
      pen.text(bars.x - 8, y + 5, name, { align: "right", color: theme[name], weight: 600 });
      pen.text(to + 6, y + 5, Number.isFinite(value) ? fixed(value, 0) : "over 700");
    });
    const words = `Adam's steps over Grams': ${Number.isFinite(lead) ? fixed(lead, 2) : "undefined"}`;
    pen.text(left, bars.y + 158, counting ? "counting" : words, { weight: 600 });
  },
  handles: [
    {
      label: "direction and length of the valley",
      at: ({ across, up }, { degrees, logKappa }) => {
        const [r, turn] = [radius(10 ** logKappa), (degrees * Math.PI) / 180];
        return [across(r * Math.cos(turn)), up(r * Math.sin(turn))];
      },
      drag(x, y, { across, up }) {
        const [p, q] = [across.back(x), up.back(y)];
        const logKappa = clamp(Math.round(20 * ((Math.hypot(p, q) - 0.5) / 0.75) * 3) / 20, 0, 3);
        return { degrees: clamp(Math.round((Math.atan2(q, p) * 180) / Math.PI), -90, 90), logKappa };
      },
      key: (dx, dy, { degrees, logKappa }) => ({
        degrees: clamp(degrees + dy, -90, 90),
        logKappa: clamp(Math.round(20 * logKappa + dx) / 20, 0, 3),
      }),
      value: ({ degrees, logKappa }) => ({
        min: -90,
        max: 90,
        now: degrees,
        text: `${degrees} degrees, condition number ${Math.round(10 ** logKappa)}`,
      }),
    },
  ],
  controls: [
    { key: "degrees", label: "angle", from: -90, to: 90, step: 1, show: (x) => `${fixed(x, 0)}°` },
    {
      key: "logKappa",
      label: "condition number",
      from: 0,
      to: 3,
      step: 0.05,
      show: (x) => String(Math.round(10 ** x)),
    },
  ],
  again: "Count again",
  says: ({ best, counting }, { degrees }) =>
    counting
      ? "Counting."
      : `At ${fixed(degrees, 0)} degrees ${RULES.map((name) => `${name} needs ${fixed(best[name].steps, 0)} steps`).join(", ")}.`,
};

const radius = (kappa) => 0.5 + (0.75 * Math.log10(kappa)) / 3;
const square = (x, y, r) => [x - r, y - r, x + r, y - r, x + r, y + r, x - r, y + r];

export default figure;
export const mount = (root) => mountFigure(root, figure);
