// Relative steps that Grams bears and does not bear, on w^2/2 with a denominator that stands still.

import { axes, clamp, fixed, grip, linear, log, pair, tens } from "./common.js";
import { mountFigure } from "./page.js";
import { adamGrowth, adamThreshold, growthRate, relativeStep } from "./steps.js";

const BETA1 = 0.9;
const [FROM, TO] = [0.5, 42];
const STEPS = 60;
const RULES = ["Adam", "Cautious", "Grams"];
const LINE = { Adam: 2, Cautious: 1.5, Grams: 2 };

/** Six directions to start from, one of which finds the fastest growth. */
const STARTS = Array.from({ length: 6 }, (_, i) => [
  Math.cos(0.1 + (i * Math.PI) / 6),
  Math.sin(0.1 + (i * Math.PI) / 6),
]);

/** The growth rate a step of a rule at the relative step a: Adam's by its eigenvalues, the others' by runs. */
export const growth = (rule, a) =>
  rule === "Adam" ? adamGrowth(a, BETA1) : growthRate(rule, a, BETA1, { steps: 520, burn: 100, starts: STARTS });

/** The run of w from w = 1, m = 0. */
function orbit(rule, a) {
  const path = [1];
  for (let [w, m, t] = [1, 0, 0]; t < STEPS; t++) {
    [w, m] = relativeStep(rule, w, m, a, BETA1);
    path.push(w);
  }
  return path;
}

let curves = null; // the same for every cursor: found once

function allCurves() {
  const at = Array.from({ length: 250 }, (_, i) => FROM + ((TO - FROM) * i) / 249);
  curves ??= { at, ...Object.fromEntries(RULES.map((name) => [name, at.map((a) => growth(name, a))])) };
  return curves;
}

export function model({ a }) {
  const rates = Object.fromEntries(RULES.map((name) => [name, growth(name, a)]));
  return {
    rates,
    orbits: Object.fromEntries(RULES.map((name) => [name, orbit(name, a)])),
    threshold: adamThreshold(BETA1),
  };
}

const explodes = (rate) => (rate > 1e-3 ? "explodes" : rate < -1e-3 ? "comes to rest" : "neither grows nor falls");

const figure = {
  name: "windows",
  title: "Grams explodes at 23.5 and is calm at 26, where Adam is calm up to 38",
  caption:
    "On w²/2 with a standing denominator one number matters, the relative step a = lr f″ / (√v + ε). Drag it along. Up to 19.6 " +
    "every run of Grams comes to rest, and that is proved. Above lie windows in which its steps, each with the gradient's sign, grow " +
    "without end: at 23.5 by a factor of 1.73 every three steps. Adam bears every a below 38, and Cautious shows no window.",
  state: { a: 23.5 },
  model,
  layout(width) {
    const boxes = pair(width, { share: 0.56, heights: [width >= 620 ? 290 : 240, 190], top: 46 });
    const { first, second } = boxes;
    return {
      ...boxes,
      across: linear(0, TO, first.x, first.x + first.w),
      up: linear(-0.36, 0.36, first.y + first.h, first.y),
      step: linear(0, STEPS, second.x, second.x + second.w),
      size: log(1e-8, 1e8, second.y + second.h, second.y),
    };
  },
  draw(pen, { first, second, across, up, step, size }, { a }, { rates, orbits, threshold }) {
    const { theme } = pen;
    axes(pen, first, {
      across,
      up,
      name: "relative step a",
      unit: "growth a step, above 0 it explodes",
      title: "Which steps explode?",
    });
    const all = allCurves();
    pen.clip(first, () => {
      const tops = all.at.flatMap((x, i) => [across(x), up(Math.max(0, x < threshold ? all.Grams[i] : 0))]);
      pen.area([across(all.at[0]), up(0), ...tops, across(TO), up(0)], { color: theme.Grams, alpha: 0.3 });
      for (const name of RULES) {
        pen.line(
          all.at.flatMap((x, i) => [across(x), up(all[name][i])]),
          { color: theme[name], width: LINE[name] },
        );
      }
      pen.line([across(threshold), first.y, across(threshold), first.y + first.h], { color: theme.Adam, dash: [3, 4] });
    });
    pen.line([across(0), up(0), across(TO), up(0)], { color: theme.ink, width: 1.5 });
    pen.line([across(a), first.y, across(a), first.y + first.h], { color: theme.ink, width: 1.5 });
    grip(pen, across(a), up(clamp(rates.Grams, -0.34, 0.34)), theme.Grams);
    const left = a > 30;
    pen.text(across(a) + (left ? -8 : 8), first.y + first.h - 10, `a = ${fixed(a, 2)}`, {
      weight: 600,
      halo: true,
      align: left ? "right" : "left",
    });
    axes(pen, second, {
      across: step,
      up: size,
      name: "step",
      title: "One run from w = 1, m = 0",
      unit: "distance |w|",
      text: { up: (_, y) => tens(Math.round(Math.log10(y))) },
    });
    pen.clip(second, () => {
      for (const name of RULES) {
        pen.line(
          orbits[name].flatMap((w, t) => [step(t), size(Math.abs(w))]),
          { color: theme[name], width: LINE[name] },
        );
      }
    });
    RULES.forEach((name, i) => {
      pen.text(second.x + 8, second.y + 18 + 17 * i, `${name} ${explodes(rates[name])}`, {
        color: theme[name],
        weight: 600,
        halo: true,
      });
    });
  },
  handles: [
    {
      label: "relative step a",
      at: ({ across, up }, { a }, { rates }) => [across(a), up(clamp(rates.Grams, -0.34, 0.34))],
      drag: (x, _y, { across }) => ({ a: clamp(Math.round(across.back(x) * 20) / 20, FROM, TO) }),
      key: (dx, dy, { a }) => ({ a: clamp(Math.round((a + 0.1 * (dx + dy)) * 20) / 20, FROM, TO) }),
      value: ({ a }, { rates }) => ({
        min: FROM,
        max: TO,
        now: a,
        text: `${fixed(a, 2)}: Grams ${explodes(rates.Grams)}`,
      }),
    },
  ],
  says: ({ rates }, { a }) =>
    `At a relative step of ${fixed(a, 2)} ${RULES.map((name) => `${name} ${explodes(rates[name])}`).join(", ")}.`,
};

export default figure;
export const mount = (root) => mountFigure(root, figure);
