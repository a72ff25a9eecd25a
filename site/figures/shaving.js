// Weight decay without gradients: L2 shrinks all singular values of a matrix, the spectral decay shaves off the top. (Claim A2.)

import { axes, fixed, linear, log, short } from "./common.js";
import { mountFigure } from "./page.js";
import { adams, initAdams, normals, singularValues } from "./steps.js";

const SIZE = 32;
export const STEPS = 150;

/** A matrix of standard normal numbers. */
export function gaussian(size = SIZE, seed = 1) {
  const draw = normals(seed);
  return Array.from({ length: size }, () => Array.from({ length: size }, draw));
}

const shown = gaussian();
let shownSpectrum = null; // found once, since each drag begins anew

/** The matrix before the first step; its spectra, the largest singular value first, and Adams' estimates of it. */
export function start(_state, _previous, w = shown) {
  const first = w === shown ? (shownSpectrum ??= singularValues(w)) : singularValues(w);
  return { w, state: initAdams(w), spectra: [first], estimates: [], owed: 0 };
}

/** One step of Adams with the gradient 0; share = lr lambda sqrt(M). */
export function step(sim, { share, decay }) {
  const zero = sim.w.map((row) => row.map(() => 0));
  const lr = share / Math.sqrt(sim.w.length);
  const hyper = { lr, weightDecay: 1, scalarVectorWeightDecay: 1, useSpectralDecay: decay === "spectral" };
  [sim.w, sim.state] = adams(sim.w, zero, sim.state, hyper);
  sim.spectra.push(singularValues(sim.w));
  sim.estimates.push(sim.state.sigma);
}

function advance(sim, state, seconds) {
  sim.owed = Math.min(1, sim.owed + 40 * seconds); // a slow machine takes one step a frame, and longer for all of them
  if (sim.owed >= 1 && sim.spectra.length <= STEPS) {
    step(sim, state);
    sim.owed -= 1;
  }
  return sim.spectra.length <= STEPS;
}

/** All spectra so far; how much of its first size the largest, the middle and the smallest singular value has now. */
export function model({ share }, { spectra, estimates }) {
  const [first, now] = [spectra[0], spectra[spectra.length - 1]];
  const left = (i) => now[i] / first[i];
  const last = first.length - 1;
  return {
    spectra,
    estimates,
    share,
    top: left(0),
    middle: left(last >> 1),
    smallest: left(last),
    steps: spectra.length - 1,
  };
}

const percent = (x) => (x < 100 ? `${fixed(100 * x, 0)}\u00a0%` : `${short(x)} times`);

const figure = {
  name: "shaving",
  title: "Spectral decay shaves the top; the small singular values never move",
  caption:
    "The 32 singular values of a Gaussian matrix, step by step, without gradients, at one lr and one λ. L2 decay shrinks all by one factor. The " +
    "spectral decay takes the share lr λ √M off the largest alone: it shaves the top down, and the small ones stay. Drag the share " +
    "past 2: the decay overshoots, and the largest one grows without a word.",
  state: { share: 0.1, decay: "spectral" },
  start,
  advance,
  model,
  layout(width, { share, decay }) {
    const box = { x: 52, y: 46, w: width - 66, h: 320 };
    const [bottom, grows] = [box.y + box.h, share > 2 && decay === "spectral"];
    const up = grows ? log(0.1, 1e4, bottom, box.y) : linear(0, 12, bottom, box.y);
    return { box, height: 410, across: linear(0, STEPS, box.x, box.x + box.w), up };
  },
  draw(pen, { box, across, up }, { decay }, { spectra, estimates, share, top, middle, smallest, steps }) {
    const { theme } = pen;
    const title = decay === "spectral" ? "Spectral decay" : "L2 decay";
    axes(pen, box, { across, up, name: "step", unit: "singular values", title });
    pen.clip(box, () => {
      spectra[0].forEach((_, i) => {
        pen.line(
          spectra.flatMap((values, t) => [across(t), up(values[i])]),
          { color: theme[decay === "spectral" ? "Adams" : "L2"], width: 1.3, alpha: 0.85 },
        );
      });
      if (decay === "spectral")
        pen.line(
          estimates.flatMap((x, t) => [across(t), up(x)]),
          { color: theme.ink, width: 1.5, dash: [4, 4] },
        );
    });
    const lines = [
      `largest: ${percent(top)} of the first`,
      `middle: ${percent(middle)}`,
      `smallest: ${percent(smallest)}`,
    ];
    lines.forEach((words, i) =>
      pen.text(box.x + box.w - 6, box.y + 17 + 17 * i, words, { align: "right", weight: 600, halo: true }),
    );
    if (share > 2 && decay === "spectral") {
      pen.text(box.x + box.w - 6, box.y + 70, "the share is past 2: it grows", {
        align: "right",
        weight: 600,
        color: theme.alarm,
        halo: true,
      });
    }
    pen.text(box.x, box.y + box.h + 32, `${steps} steps${decay === "spectral" ? "; dashed: the estimate" : ""}`, {
      size: 12,
      color: theme.soft,
    });
  },
  controls: [
    { key: "share", label: "share lr λ √M", from: 0, to: 2.5, step: 0.05, show: (x) => fixed(x, 2) },
    {
      key: "decay",
      label: "decay",
      options: [
        ["spectral", "spectral"],
        ["L2", "L2"],
      ],
    },
  ],
  again: "Decay again",
  says: ({ top, smallest, steps }) =>
    `After ${steps} steps the largest singular value has ${percent(top)} of its first size, the smallest ${percent(smallest)}.`,
};

export default figure;
export const mount = (root) => mountFigure(root, figure);
