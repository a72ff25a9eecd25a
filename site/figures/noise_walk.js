// A constant slope seen through noise: 200 walkers of Adam and 200 of Grams on the same gradients.

import { axes, fixed, linear } from "./common.js";
import { mountFigure } from "./page.js";
import { init, kappa, normals, rules } from "./steps.js";

const WALKERS = 200;
export const STEPS = 600;
const SIGNAL = 0.05; // mean over deviation of one example's gradient
const RULES = ["Adam", "Grams"];

/** Mean over deviation of a gradient that averages 2^logBatch examples. */
export const signal = (logBatch) => SIGNAL * Math.sqrt(2 ** logBatch);

/** Walkers at 0, their averages settled. Two by two they see opposite noise, so that their mean drifts without its odd part. */
export function start({ logBatch, beta1, matched }, _previous, seed = 1) {
  const snr = signal(logBatch);
  const zero = new Array(WALKERS).fill(0);
  const settled = { ...init(zero), t: 1e9, m: zero.map(() => snr), v: zero.map(() => 1 + snr * snr) };
  const lr = { Adam: 1, Grams: matched ? 1 / kappa(beta1) : 1 };
  const walks = Object.fromEntries(RULES.map((name) => [name, { w: zero, state: settled, lr: lr[name] }]));
  return { walks, snr, beta1, noise: normals(seed), t: 0, owed: 0 };
}

/** One step of every walker; w is the way downhill, in Adam's learning rates. */
export function step(sim) {
  const half = Array.from({ length: WALKERS / 2 }, () => sim.noise());
  const g = [...half.map((x) => sim.snr + x), ...half.map((x) => sim.snr - x)];
  for (const name of RULES) {
    const walk = sim.walks[name];
    [walk.w, walk.state] = rules[name](walk.w, g, walk.state, { lr: -walk.lr, beta1: sim.beta1, eps: 0 });
  }
  sim.t += 1;
}

function advance(sim, _state, seconds) {
  for (sim.owed += 100 * seconds; sim.owed >= 1 && sim.t < STEPS; sim.owed -= 1) step(sim);
  return sim.t < STEPS;
}

/** Mean and spread of the walkers of each rule, and Grams' over Adam's beside what theory says deep in the noise. */
export function model({ beta1 }, sim) {
  const found = { t: sim.t, kappa: kappa(beta1) };
  for (const name of RULES) {
    const { w } = sim.walks[name];
    const mean = w.reduce((a, b) => a + b, 0) / w.length;
    const spread = Math.sqrt(w.reduce((a, b) => a + (b - mean) ** 2, 0) / w.length);
    found[name] = { w, mean, spread };
  }
  const over = (what) => (sim.t ? found.Grams[what] / found.Adam[what] : NaN);
  return { ...found, speed: over("mean"), calm: over("spread") };
}

const scatter = Array.from({ length: WALKERS }, (_, i) => ((i * 0.618034) % 1) - 0.5);

const figure = {
  name: "noise_walk",
  title: "In noise Grams crawls, and its calm is only slowness",
  caption:
    "200 walkers of each rule go down one slope on the same noisy gradients. At the same learning rate and β₁ = 0.9 Grams crawls " +
    "at 42 % of Adam's speed, and spreads less. Give it Adam's speed (lr / κ): the calm is gone, and it spreads a little more " +
    "than Adam. A large batch, where the signal is clear, takes the difference away.",
  state: { logBatch: 0, beta1: 0.9, matched: false },
  start,
  advance,
  model,
  layout(width, { logBatch, beta1, matched }) {
    const [snr, x, w] = [signal(logBatch), 14, width - 28];
    const [drift, spread] = [(STEPS * snr) / Math.sqrt(1 + snr * snr), Math.sqrt(STEPS / (1 + snr * snr))];
    const faster = matched ? 1 + ((1 / kappa(beta1) - 1) * snr * snr) / (1 + snr * snr) : 1;
    const across = linear(-2.6 * spread, faster * drift + 3.2 * spread, x, x + w);
    return { across, lanes: { x, y: 8, w, h: 220 }, height: 308 };
  },
  draw(pen, { across, lanes }, { matched }, numbers) {
    const { theme } = pen;
    axes(pen, lanes, { across, name: "way walked downhill, in learning rates" });
    pen.line([across(0), lanes.y, across(0), lanes.y + lanes.h], { color: theme.soft, width: 1.5 });
    RULES.forEach((name, lane) => {
      const { w, mean, spread } = numbers[name];
      const middle = lanes.y + (lane + 0.56) * (lanes.h / 2);
      w.forEach((x, i) => pen.dot(across(x), middle + 56 * scatter[i], 2.6, { color: theme[name], alpha: 0.55 }));
      pen.line([across(mean - spread), middle, across(mean + spread), middle], { color: theme.ink, width: 2 });
      pen.dot(across(mean), middle, 6, { color: theme[name], edge: theme.paper, width: 2 });
      const lr = name === "Grams" && matched ? ", lr / κ" : "";
      const words = `${name}${lr}: mean ${fixed(mean, 1)}, spread ${fixed(spread, 1)}`;
      pen.text(lanes.x + 4, middle - 40, words, { color: theme[name], weight: 600, halo: true });
    });
    const bottom = lanes.y + lanes.h;
    const ratios = `Grams over Adam: speed ${fixed(numbers.speed, 2)}, spread ${fixed(numbers.calm, 2)}`;
    pen.text(lanes.x, bottom + 31, `step ${numbers.t}`, { color: theme.soft, size: 12 });
    pen.text(lanes.x, bottom + 52, numbers.t ? ratios : "Grams over Adam", { weight: 600 });
    pen.text(lanes.x, bottom + 70, `deep in the noise κ(β₁) = ${fixed(numbers.kappa, 3)}`, {
      color: theme.soft,
      size: 12,
    });
  },
  controls: [
    { key: "logBatch", label: "batch size", from: 0, to: 12, step: 1, show: (x) => `${2 ** x}` },
    { key: "beta1", label: "momentum β₁", from: 0, to: 0.98, step: 0.02, show: (x) => fixed(x, 2) },
    {
      key: "matched",
      label: "Grams has",
      options: [
        [false, "Adam's lr"],
        [true, "lr / κ"],
      ],
    },
  ],
  again: "Walk again",
  says: ({ t, Adam, Grams, speed, calm }) =>
    `After ${t} steps Adam's walkers are at ${fixed(Adam.mean, 1)}, Grams' at ${fixed(Grams.mean, 1)}: ` +
    `${fixed(speed, 2)} of the speed and ${fixed(calm, 2)} of the spread.`,
};

export default figure;
export const mount = (root) => mountFigure(root, figure);
