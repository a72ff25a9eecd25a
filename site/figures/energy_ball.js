// A ball with momentum on a bowl: the plain flow and Grams' flow, heavy ball with friction. (Claim G3.)

import { axes, clamp, fixed, grip, linear, pair } from "./common.js";
import { mountFigure } from "./page.js";
import { rollGrams, rollPlain } from "./steps.js";

const [TIME, H] = [10, 0.005]; // of a run, and of one step of the solver
const EVERY = 4; // steps between the points that are drawn
const A = (() => {
  const [c, s] = [Math.cos(0.6), Math.sin(0.6)]; // eigenvalues 1 and 4, turned
  return [
    [c * c + 4 * s * s, -3 * c * s],
    [-3 * c * s, s * s + 4 * c * c],
  ];
})();
const FLOWS = { Adam: rollPlain, Grams: rollGrams };
const NAMES = { Adam: "plain (Adam's)", Grams: "Grams" };

const gradient = ([x, y]) => [A[0][0] * x + A[0][1] * y, A[1][0] * x + A[1][1] * y];
const loss = (w) => (w[0] * gradient(w)[0] + w[1] * gradient(w)[1]) / 2;
const kinetic = (s) => (s[0] * s[0] + s[1] * s[1]) / 2;

/** Both balls at rest in (x, y). */
export function start({ x, y }) {
  const ball = () => ({ w: [x, y], s: [0, 0], path: [x, y], losses: [loss([x, y])], climbed: 0 });
  return { t: 0, owed: 0, first: loss([x, y]), balls: { Adam: ball(), Grams: ball() } };
}

/** One step of the solver for both. */
export function step(sim, friction) {
  sim.t += 1;
  for (const [name, ball] of Object.entries(sim.balls)) {
    const before = loss(ball.w);
    [ball.w, ball.s] = FLOWS[name](A, ball.w, ball.s, H, friction);
    ball.climbed += Math.max(0, loss(ball.w) - before);
    if (sim.t % EVERY === 0) [ball.path.push(...ball.w), ball.losses.push(loss(ball.w))];
  }
}

function advance(sim, { friction }, seconds) {
  for (sim.owed += (1.5 * seconds) / H; sim.owed >= 1 && sim.t * H < TIME; sim.owed -= 1) step(sim, friction);
  return sim.t * H < TIME - 1e-9;
}

/** Loss, kinetic energy and what is burnt of each ball, and how far it has climbed altogether. */
export function model(_state, sim) {
  const balls = {};
  for (const [name, ball] of Object.entries(sim.balls)) {
    const [now, k] = [loss(ball.w), kinetic(ball.s)];
    balls[name] = { ...ball, loss: now, kinetic: k, burnt: sim.first - now - k, g: gradient(ball.w) };
  }
  return { balls, time: sim.t * H, first: sim.first };
}

const figure = {
  name: "energy_ball",
  title: "Grams never climbs: it sticks, slides and burns its momentum",
  caption:
    "Two balls with momentum start where you put them. The plain one rolls past the bottom and up the other side, trading loss L for " +
    "kinetic energy K and back. Grams' loss never rises, and that is proved for the flow: where a gradient coordinate reaches 0 it " +
    "sticks and slides along the dashed line, and friction burns the K that it has no more use for.",
  state: { x: 1, y: -0.7, friction: 0.2 },
  start,
  advance,
  model,
  layout(width) {
    const wide = width >= 620;
    const size = Math.min(wide ? 0.42 * width : width - 62, 340);
    const plane = { x: 48, y: 16, w: size, h: size };
    const strip = wide
      ? { x: size + 116, y: 40, w: width - size - 132, h: 150 }
      : { x: 48, y: size + 88, w: width - 62, h: 120 };
    const bars = { ...strip, y: strip.y + strip.h + 74 };
    const height = Math.max(bars.y + 78, plane.y + size + 42);
    return {
      plane,
      strip,
      bars,
      wide,
      height,
      across: linear(-1.25, 1.25, 48, 48 + size),
      up: linear(-1.25, 1.25, 16 + size, 16),
      time: linear(0, TIME, strip.x, strip.x + strip.w),
    };
  },
  draw(pen, { plane, strip, bars, across, up, time }, { x, y, friction }, { balls, first, time: now }) {
    const { theme } = pen;
    axes(pen, plane, { across, up, name: "w₁ (upwards w₂)", most: { across: 4, up: 4 } });
    pen.clip(plane, () => {
      for (const level of [0.02, 0.1, 0.3, 0.7, 1.3, 2.2, 3.4])
        pen.line(contour(level, across, up), { color: theme.soft, alpha: 0.45 });
      for (const [p, q] of A)
        pen.line([across(-3 * q), up(3 * p), across(3 * q), up(-3 * p)], {
          color: theme.soft,
          width: 1.5,
          dash: [5, 5],
        });
      for (const name of ["Adam", "Grams"]) {
        const points = balls[name].path.map((value, i) => (i % 2 ? up(value) : across(value)));
        pen.line(points, { color: theme[name], width: 2.5 });
        pen.dot(across(balls[name].w[0]), up(balls[name].w[1]), 8, { color: theme[name], edge: theme.paper });
      }
    });
    grip(pen, across(x), up(y));
    pen.text(plane.x + 8, plane.y + 16, "dashed: a gradient coordinate is 0", {
      color: theme.soft,
      size: 12,
      halo: true,
    });
    const top = Math.max(first, 0.05);
    const high = linear(0, top, strip.y + strip.h, strip.y);
    axes(pen, strip, { across: time, up: high, name: "time", unit: "loss L", most: { up: 3 } });
    for (const name of ["Adam", "Grams"]) {
      pen.line(
        balls[name].losses.flatMap((value, i) => [time(i * EVERY * H), high(value)]),
        { color: theme[name], width: 2 },
      );
    }
    const right = strip.x + strip.w;
    pen.text(right, strip.y + 14, `plain has climbed ${fixed(balls.Adam.climbed, 2)} in all`, {
      color: theme.Adam,
      weight: 600,
      align: "right",
      halo: true,
    });
    pen.text(right, strip.y + 31, `Grams ${fixed(balls.Grams.climbed, 2)}`, {
      color: theme.Grams,
      weight: 600,
      align: "right",
      halo: true,
    });
    const along = linear(0, top, bars.x, bars.x + bars.w);
    pen.text(bars.x, bars.y - 14, `time ${fixed(now, 1)}: L full, K pale, the rest burnt`, {
      size: 12,
      color: theme.soft,
    });
    ["Adam", "Grams"].forEach((name, i) => {
      const { loss: l, kinetic: k } = balls[name];
      const at = bars.y + 34 * i;
      const bar = (from, to, look) =>
        pen.area([along(from), at, along(to), at, along(to), at + 22, along(from), at + 22], look);
      bar(0, top, { color: theme.faint });
      bar(0, clamp(l, 0, top), { color: theme[name] });
      bar(clamp(l, 0, top), clamp(l + k, 0, top), { color: theme[name], alpha: 0.4 });
      pen.text(bars.x + bars.w - 6, at + 16, `${NAMES[name]}: L ${fixed(l, 2)}, K ${fixed(k, 2)}`, {
        align: "right",
        halo: true,
        size: 12,
        weight: 600,
      });
    });
    if (friction === 0)
      pen.text(plane.x + 8, plane.y + plane.h - 10, "without friction", { color: theme.soft, size: 12, halo: true });
  },
  handles: [
    {
      label: "where the balls start",
      at: ({ across, up }, { x, y }) => [across(x), up(y)],
      drag: (px, py, { across, up }) => ({ x: clamp(across.back(px), -1.2, 1.2), y: clamp(up.back(py), -1.2, 1.2) }),
      key: (dx, dy, { x, y }) => ({ x: clamp(x + 0.05 * dx, -1.2, 1.2), y: clamp(y + 0.05 * dy, -1.2, 1.2) }),
      value: ({ x, y }) => ({ min: -1.2, max: 1.2, now: x, text: `${fixed(x, 2)}, ${fixed(y, 2)}` }),
    },
  ],
  controls: [{ key: "friction", label: "friction γ", from: 0, to: 2, step: 0.05, show: (x) => fixed(x, 2) }],
  again: "Roll again",
  says: ({ balls }) =>
    `The plain ball has climbed ${fixed(balls.Adam.climbed, 2)} in all and has a loss of ${fixed(balls.Adam.loss, 3)}; ` +
    `Grams has climbed ${fixed(balls.Grams.climbed, 2)} and has a loss of ${fixed(balls.Grams.loss, 3)}.`,
};

function contour(level, across, up) {
  const points = [];
  for (let i = 0; i <= 72; i++) {
    const [c, s] = [Math.cos((i * Math.PI) / 36), Math.sin((i * Math.PI) / 36)];
    const r = Math.sqrt(level / loss([c, s]));
    points.push(across(r * c), up(r * s));
  }
  return points;
}

export default figure;
export const mount = (root) => mountFigure(root, figure);
