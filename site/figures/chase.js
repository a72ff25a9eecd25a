// One power iteration a step follows the top singular vector of a matrix that turns. (Claim A3.)

import { axes, clamp, fixed, grip, linear } from "./common.js";
import { mountFigure } from "./page.js";
import { driftLimit, powerIteration, steadyError, turned } from "./steps.js";

const STEPS = 120;
const FASTEST = 30; // degrees a step
const RATE = 6; // steps a second
const radians = (degrees) => (degrees * Math.PI) / 180;
const degreesOf = (angle) => (angle * 180) / Math.PI;

/** u starts at ones, as Adams' does. */
export const start = () => ({
  u: [1, 1],
  t: 0,
  owed: 0,
  hand: Math.PI / 4,
  before: Math.PI / 4,
  errors: [],
  sigmas: [],
  laps: 0,
  ahead: 0,
});

/** The matrix turns, and u follows by one power iteration. */
export function step(sim, { rho, degrees }) {
  sim.t += 1;
  const leader = sim.t * radians(degrees);
  const { u, sigma } = powerIteration(sim.u, turned(rho, leader));
  sim.u = u;
  sim.before = sim.hand;
  sim.hand += wrapped(Math.atan2(u[1], u[0]) - sim.hand, 2 * Math.PI);
  const ahead = wrapped(leader - sim.hand, Math.PI); // in (-90, 90] degrees: u and -u are one
  if (ahead - sim.ahead < -Math.PI / 2) sim.laps += 1;
  sim.ahead = ahead;
  sim.errors.push(degreesOf(Math.abs(ahead)));
  sim.sigmas.push(sigma);
}

/** An angle less the whole turns that bring it nearest to 0. */
const wrapped = (angle, turn) => angle - turn * Math.round(angle / turn);

function advance(sim, state, seconds) {
  for (sim.owed += RATE * seconds; sim.owed >= 1 && sim.t < STEPS; sim.owed -= 1) step(sim, state);
  return sim.t < STEPS;
}

/** The hands between two steps, the errors so far (degrees), the laps, and what the formula says. */
export function model({ rho, degrees }, sim) {
  const part = sim.t < STEPS ? clamp(sim.owed, 0, 1) : 1;
  const leader = (sim.t - 1 + part) * radians(degrees);
  const follower = sim.before + part * (sim.hand - sim.before);
  const limit = degreesOf(driftLimit(rho));
  return {
    t: sim.t,
    leader,
    follower,
    limit,
    laps: sim.laps,
    errors: sim.errors,
    kept: degrees <= limit,
    balance: degreesOf(steadyError(rho, radians(degrees))),
    worst: Math.max(0, ...sim.errors.slice(60)),
    sigma: Math.min(1, ...sim.sigmas.slice(20)),
  };
}

const figure = {
  name: "chase",
  title: "Past 10.2° a step the follower is lapped",
  caption:
    "The dark hand is u₁, the strongest direction of a weight matrix, and turns a little at every step. The coloured one is u, which " +
    "Adams improves by one power iteration a step. With ρ = (σ₂/σ₁)² = 0.7 it follows up to 10.2° a step, 40° behind at the most. A " +
    "little faster, and the first hand runs away and laps it, again and again. The nearer σ₂ is to σ₁, the slower the limit.",
  state: { rho: 0.7, degrees: 11 },
  start,
  advance,
  model,
  layout(width) {
    const wide = width >= 620;
    const clock = { r: wide ? 118 : 96, x: wide ? 140 : width / 2, y: wide ? 140 : 112 };
    const side = wide ? { x: 330, y: 34, w: width - 346, h: 226 } : { x: 48, y: 268, w: width - 62, h: 190 };
    const strip = { x: 48, y: wide ? 342 : 538, w: width - 62, h: 120 };
    return {
      clock,
      side,
      strip,
      wide,
      height: strip.y + strip.h + 42,
      across: linear(0.05, 0.98, side.x, side.x + side.w),
      up: linear(0, FASTEST, side.y + side.h, side.y),
      step: linear(0, STEPS, strip.x, strip.x + strip.w),
      error: linear(0, 90, strip.y + strip.h, strip.y),
    };
  },
  draw(
    pen,
    { clock, side, strip, across, up, step: place, error },
    { rho, degrees },
    { t, leader, follower, laps, errors, balance, kept },
  ) {
    const { theme } = pen;
    pen.dot(clock.x, clock.y, clock.r, { color: theme.faint, edge: theme.grid });
    for (let i = 0; i < 24; i++) {
      const [c, s] = [Math.cos((i * Math.PI) / 12), Math.sin((i * Math.PI) / 12)];
      pen.line(
        [clock.x + 0.94 * clock.r * c, clock.y + 0.94 * clock.r * s, clock.x + clock.r * c, clock.y + clock.r * s],
        { color: theme.soft },
      );
    }
    hand(pen, clock, leader, 0.9, { color: theme.ink, width: 3 });
    hand(pen, clock, follower, 0.74, { color: theme.Adams, width: 6 });
    pen.dot(clock.x, clock.y, 5, { color: theme.ink });
    pen.text(clock.x, clock.y + clock.r + 20, `${laps === 1 ? "lapped once" : `lapped ${laps} times`} in ${t} steps`, {
      align: "center",
      weight: 600,
      color: laps ? theme.alarm : theme.ink,
    });
    const shown = { up: (_, y) => `${fixed(y, 0)}°` };
    axes(pen, side, {
      across,
      up,
      name: "ρ = (σ₂/σ₁)²",
      unit: "turn a step",
      marks: { across: [0.2, 0.4, 0.6, 0.8] },
      text: shown,
    });
    const rhos = Array.from({ length: 80 }, (_, i) => 0.05 + (0.93 * i) / 79);
    const edge = rhos.flatMap((x) => [across(x), up(degreesOf(driftLimit(x)))]);
    pen.clip(side, () => {
      pen.area([...edge, across(0.98), up(90), across(0.05), up(90)], { color: theme.alarm, alpha: 0.12 });
      pen.line(edge, { color: theme.alarm, width: 2 });
    });
    pen.text(side.x + side.w - 10, side.y + 20, "lapped", { align: "right", color: theme.alarm, weight: 600 });
    pen.text(side.x + 10, side.y + side.h - 12, "followed", { weight: 600 });
    grip(pen, across(rho), up(degrees), theme.Adams);
    axes(pen, strip, {
      across: place,
      up: error,
      name: "step",
      unit: "angle between the hands",
      marks: { up: [0, 45, 90] },
      text: shown,
    });
    if (kept)
      pen.line([strip.x, error(balance), strip.x + strip.w, error(balance)], { color: theme.soft, dash: [4, 4] });
    pen.line(
      errors.flatMap((x, i) => [place(i + 1), error(x)]),
      { color: theme.Adams, width: 2 },
    );
    if (kept)
      pen.text(strip.x + strip.w - 6, error(balance) - 7, `formula: ${fixed(balance, 1)}°`, {
        align: "right",
        size: 12,
        color: theme.soft,
        halo: true,
      });
  },
  handles: [
    {
      label: "turn a step, and rho",
      at: ({ across, up }, { rho, degrees }) => [across(rho), up(degrees)],
      drag: (x, y, { across, up }) => ({
        rho: clamp(Math.round(100 * across.back(x)) / 100, 0.05, 0.98),
        degrees: clamp(Math.round(10 * up.back(y)) / 10, 0, FASTEST),
      }),
      key: (dx, dy, { rho, degrees }) => ({
        rho: clamp(Math.round(100 * rho + dx) / 100, 0.05, 0.98),
        degrees: clamp(Math.round(10 * degrees + dy) / 10, 0, FASTEST),
      }),
      value: ({ rho, degrees }, { kept }) => ({
        min: 0,
        max: FASTEST,
        now: degrees,
        text: `${fixed(degrees, 1)} degrees a step, rho ${fixed(rho, 2)}: ${kept ? "followed" : "lapped"}`,
      }),
    },
  ],
  controls: [
    { key: "degrees", label: "turn a step", from: 0, to: FASTEST, step: 0.1, show: (x) => `${fixed(x, 1)}°` },
    { key: "rho", label: "ρ = (σ₂/σ₁)²", from: 0.05, to: 0.98, step: 0.01, show: (x) => fixed(x, 2) },
  ],
  again: "Chase again",
  says: ({ laps, t, limit, errors }, { degrees }) =>
    `At ${fixed(degrees, 1)} degrees a step, the limit being ${fixed(limit, 1)}, u is ${fixed(errors.at(-1) ?? 0, 0)} degrees away after ${t} steps and was lapped ${laps} times.`,
};

/** A hand through the middle, since u and -u are one direction; its head at the front end. */
function hand(pen, { x, y, r }, angle, length, look) {
  const [c, s] = [length * r * Math.cos(angle), -length * r * Math.sin(angle)];
  pen.line([x - c, y - s, x + c, y + s], look);
  pen.dot(x + c, y + s, look.width + 2, { color: look.color });
}

export default figure;
export const mount = (root) => mountFigure(root, figure);
