// Grams' rule in two coordinates: the tip of the gradient is dragged, m and v stay.

import { arrow, axes, clamp, fixed, grip, linear, pair } from "./common.js";
import { mountFigure } from "./page.js";
import { rules } from "./steps.js";

const M = [0.85, 0.5]; // the averages before this step, so late that no bias correction is left
const V = [1, 1];
const LATE = 1e9;
const WIDTH = { Adam: 9, Cautious: 5, Grams: 2.5 };

/** What each rule subtracts from w, over lr, at the gradient (gx, gy), and its inner product with the gradient. */
export function model({ gx, gy }) {
  const direction = (rule, g) => rule([0, 0], g, { t: LATE, m: M, v: V }, { lr: 1 })[0].map((x) => 0 - x);
  const d = {};
  const slope = {};
  const leap = {}; // how far the arrow's tip jumps if g goes on across the nearer axis by as little as it likes
  const nearer = Math.abs(gx) < Math.abs(gy) ? 0 : 1;
  const across = [gx, gy].map((x, i) => (i === nearer ? -Math.sign(x || 1) * 1e-9 : x));
  const before = across.map((x, i) => (i === nearer ? -x : x));
  for (const [name, rule] of Object.entries(rules)) {
    d[name] = direction(rule, [gx, gy]);
    slope[name] = d[name][0] * gx + d[name][1] * gy;
    const [one, two] = [direction(rule, before), direction(rule, across)];
    leap[name] = Math.hypot(one[0] - two[0], one[1] - two[1]);
  }
  return { d, slope, leap, mirrored: direction(rules.Grams, across), near: Math.min(Math.abs(gx), Math.abs(gy)) };
}

const figure = {
  name: "grams_rule",
  title: "A hair across an axis, and Grams' arrow leaps",
  caption:
    "Drag the tip of the gradient g; the averages m and v stay where they are. Each arrow is what a rule subtracts from the " +
    "weights. Adam's hardly stirs, Cautious' loses the coordinate that disagrees, and Grams' leaps into the mirrored quadrant: " +
    "by twice its height there, however small the gradient is. All the while Grams' arrow has the largest inner product with g, " +
    "Adam's the smallest.",
  state: { gx: 0.7, gy: 0.12 },
  still: { gx: 0.7, gy: -0.05 },
  model,
  layout(width) {
    const size = Math.min(width >= 620 ? 0.5 * width : width, 400) - 62;
    const boxes = pair(width, { share: 0.5, heights: [size, width >= 620 ? size : 120], top: 26 });
    const plane = { ...boxes.first, w: size, h: size };
    const bars = boxes.wide
      ? { x: plane.x + size + 96, y: 60, w: width - plane.x - size - 110, h: 170 }
      : { ...boxes.second, x: 84, w: width - 98 };
    const [across, up] = [linear(-1.15, 1.15, plane.x, plane.x + size), linear(-1.15, 1.15, plane.y + size, plane.y)];
    return { ...boxes, plane, bars, across, up, along: linear(-1.1, 2.2, bars.x, bars.x + bars.w) };
  },
  draw(pen, { plane, bars, across, up, along, wide }, { gx, gy }, { d, slope, leap, mirrored, near }) {
    const { theme } = pen;
    axes(pen, plane, { across, up, most: { across: 4, up: 4 } });
    pen.line([across(0), plane.y, across(0), plane.y + plane.h], { color: theme.soft, width: 1.5 });
    pen.line([plane.x, up(0), plane.x + plane.w, up(0)], { color: theme.soft, width: 1.5 });
    if (near < 0.2) {
      pen.line([across(0), up(0), across(mirrored[0]), up(mirrored[1])], {
        color: theme.Grams,
        width: 1.5,
        dash: [3, 5],
      });
      pen.dot(across(mirrored[0]), up(mirrored[1]), 4, { edge: theme.Grams, width: 1.5 });
    }
    for (const name of ["Adam", "Cautious", "Grams"]) {
      arrow(pen, across(0), up(0), across(d[name][0]), up(d[name][1]), { color: theme[name], width: WIDTH[name] });
    }
    pen.line([across(0), up(0), across(gx), up(gy)], { color: theme.ink, width: 2, dash: [1, 4] });
    grip(pen, across(gx), up(gy));
    pen.text(across(gx) + 14, up(gy) + (gy >= 0 && gy < 0.9 ? -8 : 22), "g", { weight: 700, size: 15, halo: true });
    pen.text(plane.x, plane.y - 8, "arrows: what is subtracted, over lr", { color: theme.soft, size: 12 });
    const row = bars.h / 3;
    pen.text(wide ? bars.x - 62 : 20, bars.y - 12, "How fast the loss falls: ⟨arrow, g⟩", { weight: 600 });
    pen.line([along(0), bars.y - 2, along(0), bars.y + bars.h], { color: theme.soft });
    ["Grams", "Cautious", "Adam"].forEach((name, i) => {
      const y = bars.y + (i + 0.5) * row;
      const [from, to] = [along(0), along(slope[name])];
      pen.area([from, y - 11, to, y - 11, to, y + 11, from, y + 11], { color: theme[name] });
      pen.text(bars.x - 8, y + 4, name, { align: "right", color: theme[name], weight: 600 });
      pen.text(Math.max(from, to) + 6, y + 5, fixed(slope[name], 3));
    });
    if (wide) {
      pen.text(bars.x - 62, bars.y + bars.h + 34, "A hair across, the arrow leaps by");
      ["Grams", "Cautious", "Adam"].forEach((name, i) => {
        const at = bars.y + bars.h + 54 + 18 * i;
        pen.text(bars.x - 62, at, `${name} ${fixed(leap[name], 3)}`, { color: theme[name], weight: 600 });
      });
    }
  },
  handles: [
    {
      label: "tip of the gradient",
      at: ({ across, up }, { gx, gy }) => [across(gx), up(gy)],
      drag: (x, y, { across, up }) => ({ gx: clamp(across.back(x), -1.1, 1.1), gy: clamp(up.back(y), -1.1, 1.1) }),
      key: (dx, dy, { gx, gy }) => ({ gx: clamp(gx + 0.02 * dx, -1.1, 1.1), gy: clamp(gy + 0.02 * dy, -1.1, 1.1) }),
      value: ({ gx, gy }) => ({ min: -1.1, max: 1.1, now: gy, text: `${fixed(gx, 2)}, ${fixed(gy, 2)}` }),
    },
  ],
  says: ({ d, slope }) =>
    ["Adam", "Cautious", "Grams"]
      .map(
        (name) =>
          `${name} subtracts ${d[name].map((x) => fixed(x, 2)).join(", ")}, inner product with g ${fixed(slope[name], 3)}`,
      )
      .join("; "),
};

export default figure;
export const mount = (root) => mountFigure(root, figure);
