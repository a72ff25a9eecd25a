// Adam or Grams at rest on w^2/2: sqrt(v) fades, the relative step grows, until it is thrown out. (Claims A4, G4.)

import { axes, clamp, fixed, grip, linear, log, short, tens } from "./common.js";
import { mountFigure } from "./page.js";
import { adamThreshold, runAtRest } from "./steps.js";

const [LR, BETA1] = [1e-2, 0.9];
const LIMIT = { Adam: adamThreshold(BETA1), Grams: 19.6 }; // above: thrown out; Grams' is the end of what is proved calm

/** beta2 from its memory, 1 - beta2 = 10^-memory, to four digits. */
export const beta2Of = (memory) => Math.round((1 - 10 ** -memory) * 1e4) / 1e4;

/** A run from w = 1, long enough for v to fade: |w| in learning rates, the relative step, and what became of the calm. */
export function model({ logEps, memory, rule }) {
  const [beta2, eps] = [beta2Of(memory), 10 ** logEps];
  const steps = Math.round(30 / (1 - beta2));
  const run = runAtRest(rule, { lr: LR, beta1: BETA1, beta2, eps, steps });
  const [size, relative] = [new Float64Array(steps + 1), new Float64Array(steps)]; // relative: of step t + 1
  let [first, height] = [-1, 0];
  for (let t = 0; t <= steps; t++) {
    size[t] = Math.abs(run.w[t]) / LR;
    if (t < steps) relative[t] = LR / run.denominator[t];
    if (first < 0 && relative[t] > LIMIT[rule]) first = t;
    if (first >= 0 && size[t] > height) height = size[t];
  }
  const crossing = first < 0 ? null : first;
  const quiet = size[first < 0 ? steps : first];
  return { beta2, eps, steps, size, relative, crossing, quiet, height, limit: LIMIT[rule], ceiling: LR / eps };
}

/** The smallest and the largest value in each column of pixels, as points of a line; `up` places a value. */
function columns(values, place, up) {
  const points = [];
  const each = Math.max(1, Math.ceil(values.length / (place(place.to) - place(place.from))));
  for (let i = 0; i < values.length; i += each) {
    let [low, high] = [Infinity, -Infinity];
    for (let j = i; j < Math.min(i + each, values.length); j++)
      [low, high] = [Math.min(low, values[j]), Math.max(high, values[j])];
    points.push(place(i), up(low));
    if (high !== low) points.push(place(i), up(high));
  }
  return points;
}

const figure = {
  name: "thermostat",
  title: "Long calm, then thrown out: a thermostat with a coarse hand",
  caption:
    "w²/2, learning rate 0.01, no noise. At rest the gradients fade and √v with them, so the relative step a = lr / (√v + ε) grows " +
    "without end. Past 38 (Adam) the minimum repels: after a long calm the loss climbs by many powers of ten, which feeds v, which " +
    "shortens the step. Pull the ceiling lr / ε below 38, that is ε above lr/38 = 0.00026: never again. A shorter memory β₂ makes " +
    "the spikes lower, and they come sooner.",
  state: { logEps: -8, memory: 2, rule: "Adam" },
  model,
  layout(width) {
    const [x, w] = [56, width - 84];
    const top = { x, y: 46, w, h: 170 };
    const low = { x, y: 276, w, h: 150 };
    return {
      top,
      low,
      height: 470,
      loss: log(1e-100, 1e10, top.y + top.h, top.y),
      up: log(1e-2, 1e6, low.y + low.h, low.y),
    };
  },
  draw(pen, { top, low, loss, up }, { rule }, { steps, size, relative, crossing, height, limit, ceiling }) {
    const { theme } = pen;
    const across = linear(0, steps, top.x, top.x + top.w);
    const raised = { up: (_, y) => tens(Math.round(Math.log10(y))) };
    const unit = `loss w²/2 of ${rule}`;
    axes(pen, top, { across, up: loss, unit, most: { up: 4 }, text: raised });
    const outcome =
      crossing === null ? "calm to the end" : `calm to step ${crossing}, then ${fixed(height, 2)} lr away`;
    pen.text(top.w < 400 ? 16 : top.x, top.y - 25, outcome, {
      weight: 600,
      color: crossing === null ? theme.ink : theme.alarm,
    });
    pen.clip(top, () =>
      pen.line(
        columns(size, across, (x) => loss((x * LR) ** 2 / 2)),
        { color: theme[rule], width: 1.5 },
      ),
    );
    axes(pen, low, {
      across,
      up,
      name: "step",
      unit: "relative step a = lr / (√v + ε)",
      most: { up: 4 },
      text: raised,
    });
    pen.clip(low, () => pen.line(columns(relative, across, up), { color: theme.ink, width: 1.5 }));
    pen.line([low.x, up(limit), low.x + low.w, up(limit)], { color: theme.alarm, width: 1.5, dash: [5, 4] });
    const words = rule === "Adam" ? "38: above it the minimum repels" : "19.6: Grams contracts up to here";
    pen.text(low.x + low.w - 4, up(limit) - 6, words, { color: theme.alarm, size: 12, halo: true, align: "right" });
    const y = up(clamp(ceiling, up.from, up.to));
    pen.line([low.x, y, low.x + low.w, y], { color: theme.Cautious, width: 2 });
    grip(pen, low.x + low.w + 12, y, theme.Cautious);
    pen.text(low.x + 6, y + (ceiling > 1e5 ? 17 : -6), `ceiling lr / ε = ${short(ceiling)}`, {
      color: theme.Cautious,
      weight: 600,
      halo: true,
    });
  },
  handles: [
    {
      label: "ceiling of the relative step, lr over epsilon",
      at: ({ low, up }, _state, { ceiling }) => [low.x + low.w + 12, up(clamp(ceiling, up.from, up.to))],
      drag: (_x, y, { up }) => ({ logEps: clamp(Math.round(10 * (-2 - Math.log10(up.back(y)))) / 10, -8, 0) }),
      key: (dx, dy, { logEps }) => ({ logEps: clamp(Math.round(10 * logEps - dx - dy) / 10, -8, 0) }),
      value: ({ logEps }, { ceiling, crossing }) => ({
        min: -8,
        max: 0,
        now: logEps,
        text: `${short(ceiling)}, ${crossing === null ? "calm" : "thrown out"}`,
      }),
    },
  ],
  controls: [
    { key: "logEps", label: "ε", from: -8, to: 0, step: 0.1, show: (x) => short(10 ** x) },
    { key: "memory", label: "memory β₂", from: 1.3, to: 3, step: 0.1, show: (x) => fixed(beta2Of(x), 4) },
    {
      key: "rule",
      label: "rule",
      options: [
        ["Adam", "Adam"],
        ["Grams", "Grams"],
      ],
    },
  ],
  says: ({ crossing, height, ceiling, steps }, { rule }) =>
    crossing === null
      ? `With a ceiling of ${short(ceiling)} ${rule} stays calm for ${steps} steps.`
      : `${rule} is calm until step ${crossing}, then it is thrown up to ${fixed(height, 2)} learning rates away.`,
};

export default figure;
export const mount = (root) => mountFigure(root, figure);
