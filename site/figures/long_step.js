// One step from one state on w^2/2: Adam, Cautious and Grams by the step size. (Claims G1 and G2.)

import { axes, clamp, fixed, grip, linear, log, pair, short } from "./common.js";
import { mountFigure } from "./page.js";
import { init, rules } from "./steps.js";

const LR = 0.55; // of the steps that lead to the state
const RULES = ["Adam", "Cautious", "Grams"];
const [REACH, LEAST] = [0.8, 1e-5]; // of the step size, and of the losses that are shown
const f = (w) => (w * w) / 2;

/** The state after `before` steps of Adam, what each rule subtracts there for one unit of eta, and where its step ends. */
export function model({ before, eta }) {
  let [w, state] = [[1], init([1])];
  const path = [1];
  for (let t = 0; t < before; t++) {
    [w, state] = rules.Adam(w, w, state, { lr: LR });
    path.push(w[0]);
  }
  const d = Object.fromEntries(RULES.map((name) => [name, 0 - rules[name]([0], w, state, { lr: 1 })[0][0]]));
  const end = Object.fromEntries(RULES.map((name) => [name, w[0] - eta * d[name]]));
  const loss = Object.fromEntries(RULES.map((name) => [name, f(end[name])]));
  const agree = d.Grams === d.Cautious;
  const star = agree ? Infinity : (2 * Math.abs(w[0])) / Math.abs(d.Grams);
  return { w: w[0], path, d, end, loss, start: f(w[0]), agree, star, worse: loss.Grams / loss.Cautious };
}

const figure = {
  name: "long_step",
  title: "Best to first order, then 35 times worse than waiting",
  caption:
    "w²/2 after two steps of size 0.55: the momentum still points on, the gradient back. Drag η, the size of the next step. The " +
    "shortest steps go as the paper says: Grams lowers the loss most, Cautious waits, Adam climbs. From η* on waiting is better, and " +
    "at η = 0.55, the run's own step, Grams' loss is 35 times what waiting leaves.",
  state: { before: 2, eta: 0.55 },
  model,
  layout(width) {
    const boxes = pair(width, { heights: [width >= 620 ? 270 : 210, 210], top: 46 });
    const { first, second } = boxes;
    return {
      ...boxes,
      place: linear(-0.75, 1.05, first.x, first.x + first.w),
      height1: linear(0, 0.3, first.y + first.h, first.y),
      across: linear(0, REACH, second.x, second.x + second.w),
      up: log(LEAST, 1, second.y + second.h, second.y),
    };
  },
  draw(pen, { first, second, place, height1, across, up }, { eta }, { w, d, end, loss, start, agree, star, worse }) {
    const { theme } = pen;
    axes(pen, first, {
      across: place,
      up: height1,
      name: "w",
      unit: "loss w²/2",
      title: "Where the step ends",
      most: { up: 4 },
    });
    const xs = Array.from({ length: 61 }, (_, i) => place.from + ((place.to - place.from) * i) / 60);
    pen.clip(first, () =>
      pen.line(
        xs.flatMap((x) => [place(x), height1(f(x))]),
        { color: theme.soft, width: 2 },
      ),
    );
    pen.clip(first, () => {
      RULES.forEach((name, i) => {
        pen.line([place(w), height1(start), place(end[name]), height1(loss[name])], {
          color: theme[name],
          width: 1.5,
          dash: [2, 4],
        });
        pen.dot(place(end[name]), height1(loss[name]), 9 - 2 * i, { color: theme[name] });
      });
      pen.area(square(place(w), height1(start), 5), { color: theme.ink });
    });
    const words = agree ? "all signs agree: one step" : `Grams: ${times(worse)} times Cautious`;
    pen.text(place(0), first.y + 16, words, { weight: 600, halo: true, align: "center" });
    RULES.forEach((name, i) => {
      pen.text(place(0), first.y + 36 + 17 * i, `${name} ends at ${fixed(loss[name], 4)}`, {
        color: theme[name],
        size: 12,
        halo: true,
        align: "center",
      });
    });
    axes(pen, second, {
      across,
      up,
      name: "step size η of this one step",
      unit: "loss after it",
      title: "By the step size",
    });
    pen.clip(second, () => {
      const etas = Array.from({ length: 161 }, (_, i) => (REACH * i) / 160);
      for (const name of RULES) {
        pen.line(
          etas.flatMap((x) => [across(x), up(f(w - x * d[name]))]),
          { color: theme[name], width: 2.5 },
        );
      }
      if (star < REACH)
        pen.line([across(star), second.y, across(star), second.y + second.h], { color: theme.ink, dash: [3, 4] });
    });
    if (star < 0.9 * REACH)
      pen.text(across(star) + 6, second.y + 16, `η* = ${fixed(star, 3)}`, { weight: 600, halo: true });
    const y = up(clamp(loss.Grams, LEAST, 1));
    grip(pen, across(eta), y, theme.Grams);
    const middle = clamp(across(eta), second.x + 30, second.x + second.w - 30);
    pen.text(middle, y + 26 > second.y + second.h ? y - 18 : y + 26, `η = ${fixed(eta, 2)}`, {
      align: "center",
      weight: 600,
      halo: true,
    });
  },
  handles: [
    {
      label: "step size η",
      at: ({ across, up }, { eta }, { loss }) => [across(eta), up(clamp(loss.Grams, LEAST, 1))],
      drag: (x, _y, { across }) => ({ eta: clamp(Math.round(across.back(x) * 200) / 200, 0, REACH) }),
      key: (dx, dy, { eta }) => ({ eta: clamp(Math.round((eta + 0.01 * (dx + dy)) * 200) / 200, 0, REACH) }),
      value: ({ eta }, { worse }) => ({
        min: 0,
        max: REACH,
        now: eta,
        text: `${fixed(eta, 3)}, Grams' loss over Cautious' ${times(worse)}`,
      }),
    },
  ],
  controls: [{ key: "before", label: "steps taken before it", from: 1, to: 12, step: 1, show: (n) => String(n) }],
  says: ({ loss, agree, worse }, { eta }) =>
    agree
      ? "All signs agree here: the three steps are one."
      : `At η = ${fixed(eta, 2)} the loss is ${fixed(loss.Adam, 4)} with Adam, ${fixed(loss.Cautious, 4)} with Cautious and ` +
        `${fixed(loss.Grams, 4)} with Grams, ${times(worse)} times Cautious'.`,
};

const times = (x) => (x >= 10 ? fixed(x, 0) : short(x));
const square = (x, y, r) => [x - r, y - r, x + r, y - r, x + r, y + r, x - r, y + r];

export default figure;
export const mount = (root) => mountFigure(root, figure);
