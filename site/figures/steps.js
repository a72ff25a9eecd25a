// The optimizers' steps, written from reference/*.py: pure functions of numbers and arrays of numbers, without a page.
// A test runs them in Node beside `reference`, on a grid of states and hyper-parameters, and allows a difference of 1e-12.
// A vector is an array of numbers, a matrix an array of rows. A rule takes (w, g, state, hyper) and returns [w, state];
// nothing that comes in is changed. `l.` numbers the lines of the paper's pseudocode, as in reference.

const defaults = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 };

/** x to the whole power n >= 0, by products alone: the same bits in every browser, which Math.pow does not promise. */
export function power(x, n) {
  let result = 1;
  for (let square = x, left = n; left >= 1; left = Math.floor(left / 2), square *= square) {
    if (left % 2 === 1) result *= square;
  }
  return result;
}

function sameLength(w, g, m) {
  if (w.length !== g.length || w.length !== m.length) {
    throw new RangeError(
      `parameter, gradient and state must have one length, got ${w.length}, ${g.length}, ${m.length}; make the state with init(w)`,
    );
  }
}

/** The state before the first step of Adam and its kin. */
export const init = (w) => ({ t: 0, m: w.map(() => 0), v: w.map(() => 0) });

/** Lines 5-9 of Grams, which Adam, AdamW and Cautious share: the next state and u = mhat / (sqrt(vhat) + eps). */
function averages(w, g, state, { beta1, beta2, eps }) {
  sameLength(w, g, state.m);
  const t = state.t + 1;
  const [m, v, u] = [new Array(w.length), new Array(w.length), new Array(w.length)];
  const [one, two] = [1 - power(beta1, t), 1 - power(beta2, t)];
  for (let i = 0; i < w.length; i++) {
    m[i] = beta1 * state.m[i] + (1 - beta1) * g[i];
    v[i] = beta2 * state.v[i] + (1 - beta2) * (g[i] * g[i]);
    u[i] = m[i] / one / (Math.sqrt(v[i] / two) + eps);
  }
  return { state: { t, m, v }, u };
}

/** Adam, arXiv 1412.6980: reference.adam. */
export function adam(w, g, state, hyper) {
  const { lr, weightDecay, ...rest } = { ...defaults, ...hyper };
  const next = averages(
    w,
    g.map((x, i) => x + weightDecay * w[i]),
    state,
    rest,
  );
  return [w.map((x, i) => x - lr * next.u[i]), next.state]; // l.9
}

/** AdamW, arXiv 1711.05101: reference.adamw. */
export function adamw(w, g, state, hyper) {
  const { lr, weightDecay, ...rest } = { ...defaults, ...hyper };
  const next = averages(w, g, state, rest);
  return [w.map((x, i) => x - lr * weightDecay * x - lr * next.u[i]), next.state]; // l.5, l.10
}

/** Grams, arXiv 2412.17107: reference.grams. */
export function grams(w, g, state, hyper) {
  const { lr, weightDecay, ...rest } = { ...defaults, ...hyper };
  const next = averages(w, g, state, rest);
  const moved = w.map((x, i) => x - lr * (Math.sign(g[i]) * Math.abs(next.u[i]))); // l.10, l.11
  return [moved.map((x) => x - lr * weightDecay * x), next.state]; // l.12
}

/** C-AdamW, arXiv 2411.16085: reference.cautious; rescale is "count", "mean" or "none". */
export function cautious(w, g, state, hyper) {
  const { lr, weightDecay, xi = 1, rescale = "count", ...rest } = { ...defaults, ...hyper };
  const next = averages(w, g, state, rest);
  const phi = next.u.map((x, i) => (x * g[i] > 0 ? 1 : 0)); // l.10
  const kept = phi.reduce((a, b) => a + b, 0);
  const alpha = { count: w.length / (kept + xi), mean: 1 / Math.max(kept / w.length, 1e-3), none: 1 }[rescale]; // l.11
  if (alpha === undefined) throw new RangeError(`rescale must be "count", "mean" or "none", got ${rescale}`);
  const moved = w.map((x, i) => x - lr * alpha * phi[i] * next.u[i]); // l.12
  return [moved.map((x) => x - lr * weightDecay * x), next.state]; // l.13
}

/** Lion, arXiv 2302.06675: reference.lion; its state is { m }. */
export function lion(w, g, state, { lr, beta1 = 0.9, beta2 = 0.99, weightDecay = 0 }) {
  sameLength(w, g, state.m);
  const c = state.m.map((x, i) => beta1 * x + (1 - beta1) * g[i]); // l.4
  const moved = w.map((x, i) => x - lr * (Math.sign(c[i]) + weightDecay * x)); // l.5
  return [moved, { m: state.m.map((x, i) => beta2 * x + (1 - beta2) * g[i]) }]; // l.6
}

/** One line for each rule by its name; Cautious as in the Grams paper, its mask not rescaled. */
export const rules = {
  Adam: adam,
  Cautious: (w, g, state, hyper) => cautious(w, g, state, { ...hyper, rescale: "none" }),
  Grams: grams,
};

// --- Adams: reference.adams ---

const norm = (x) => Math.sqrt(x.reduce((a, b) => a + b * b, 0));

/** x / max(||x||, 1e-12). */
export function normalize(x) {
  const length = Math.max(norm(x), 1e-12);
  return x.map((a) => a / length);
}

const times = (w, x) => w.map((row) => row.reduce((a, b, j) => a + b * x[j], 0));
const transposed = (w) => w[0].map((_, j) => w.map((row) => row[j]));

/** u (M) and W (M x N) to the next u, sigma and v. */
export function powerIteration(u, w) {
  const v = normalize(times(transposed(w), u)); // P1.1
  const wv = times(w, v); // P1.2
  const next = normalize(wv); // P1.3
  return { u: next, sigma: next.reduce((a, b, i) => a + b * wv[i], 0), v }; // P1.4
}

/** The state of Adams for a matrix: u starts at ones. */
export const initAdams = (w) => ({
  t: 0,
  m: w.map((row) => row.map(() => 0)),
  v: w.map((row) => row.map(() => 0)),
  u: w.map(() => 1),
  sigma: 0,
});

/** One step of Adams on a matrix; useSpectralDecay false has the L2 decay in place of lines 6-7. */
export function adams(w, g, state, hyper) {
  const { lr, beta1 = 0.9, beta2 = 0.95, weightDecay = 0.1 } = hyper;
  const { scalarVectorWeightDecay = 0.1, useSpectralDecay = true } = hyper;
  const t = state.t + 1; // l.4
  let { u, sigma } = state;
  let decayed;
  if (useSpectralDecay) {
    const found = powerIteration(u, w); // l.6
    ({ u, sigma } = found);
    const share = lr * weightDecay * Math.sqrt(w.length);
    decayed = w.map((row, i) => row.map((x, j) => x - share * (u[i] * sigma * found.v[j]))); // l.7
  } else {
    decayed = w.map((row) => row.map((x) => x - lr * scalarVectorWeightDecay * x));
  }
  const m = state.m.map((row, i) => row.map((x, j) => beta1 * x + (1 - beta1) * g[i][j])); // l.8
  const v = state.v.map((row, i) => row.map((x, j) => beta2 * x + (1 - beta2) * g[i][j] * g[i][j])); // l.9
  const [one, two] = [1 - power(beta1, t), 1 - power(beta2, t)]; // l.10, l.11
  const moved = decayed.map((row, i) =>
    row.map((x, j) => x - lr * Math.atan2(m[i][j] / one, Math.sqrt(v[i][j] / two))),
  );
  return [moved, { t, m, v, u, sigma }]; // l.12
}

/** tan of the fastest steady turn that one power iteration a step can follow, as an angle: reference.theory.spectral_decay. */
export const driftLimit = (rho) => Math.atan((1 - rho) / (2 * Math.sqrt(rho)));

/** The angle by which u trails for ever when u_1 turns by `drift` a step; NaN where there is none. */
export function steadyError(rho, drift) {
  const d = Math.tan(drift);
  const inside = (1 - rho) ** 2 - 4 * rho * d * d;
  return inside >= 0 ? Math.atan((2 * rho * d) / (1 - rho + Math.sqrt(inside))) : NaN;
}

/** The 2 x 2 matrix with singular values 1 and sqrt(rho) whose left singular vectors are turned by `angle`. */
export function turned(rho, angle) {
  const [c, s, small] = [Math.cos(angle), Math.sin(angle), Math.sqrt(rho)];
  return [
    [c, -s * small],
    [s, c * small],
  ];
}

/** The singular values of a matrix, largest first: one-sided Jacobi rotations of its columns until they are orthogonal. */
export function singularValues(w) {
  const columns = w.length >= w[0].length ? transposed(w) : w.map((row) => row.slice());
  for (let sweep = 0, rotated = true; rotated && sweep < 60; sweep++) {
    rotated = false;
    for (let p = 0; p < columns.length; p++) {
      for (let q = p + 1; q < columns.length; q++) rotated = rotate(columns[p], columns[q]) || rotated;
    }
  }
  return columns.map(norm).sort((a, b) => b - a);
}

/** Makes two columns orthogonal in place; false where they were already, to rounding. */
function rotate(x, y) {
  let [a, b, c] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    a += x[i] * x[i];
    b += y[i] * y[i];
    c += x[i] * y[i];
  }
  if (Math.abs(c) <= 1e-15 * Math.sqrt(a * b)) return false;
  const zeta = (b - a) / (2 * c);
  const tan = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
  const cos = 1 / Math.sqrt(1 + tan * tan);
  const sin = cos * tan;
  for (let i = 0; i < x.length; i++) {
    const old = x[i];
    x[i] = cos * old - sin * y[i];
    y[i] = sin * old + cos * y[i];
  }
  return true;
}

// --- a quadratic whose denominator stands still: reference.theory.step_stability ---

/** One step with the relative step a = lr h / (sqrt(v) + eps), the bias corrections long gone: [w, m]. */
export function relativeStep(rule, w, m, a, beta1) {
  const next = beta1 * m + (1 - beta1) * w;
  return [moved(rule, w, next, a), next];
}

/** w after that step, m being the new one: a number alone, as `growthRate` takes thousands of steps in a frame. */
function moved(rule, w, m, a) {
  if (rule === "Adam") return w - a * m;
  if (rule === "Grams") return w - a * Math.sign(w) * Math.abs(m);
  if (rule === "Cautious") return w * m > 0 ? w - a * m : w;
  throw new RangeError(`rule must be Adam, Cautious or Grams, got ${rule}`);
}

/** The relative step up to which Adam's map contracts: 38 at beta1 = 0.9. */
export const adamThreshold = (beta1) => (2 * (1 + beta1)) / (1 - beta1);

/** log of the largest |eigenvalue| of Adam's map: how fast it grows a step. */
export function adamGrowth(a, beta1) {
  const half = (1 + beta1 - a * (1 - beta1)) / 2; // of the trace; the determinant is beta1
  const inside = half * half - beta1;
  return inside < 0 ? Math.log(beta1) / 2 : Math.log(Math.abs(half) + Math.sqrt(inside));
}

/** Mean of log(|(w, m)'| / |(w, m)|) a step, the largest over `starts` (pairs [w, m]); above 0 the iterates explode. */
export function growthRate(rule, a, beta1, { steps = 500, burn = 100, starts }) {
  let largest = -Infinity;
  for (const start of starts) {
    let [w, m] = start;
    let total = 0;
    for (let t = 0; t < steps; t++) {
      m = beta1 * m + (1 - beta1) * w;
      w = moved(rule, w, m, a);
      const length = Math.max(Math.sqrt(w * w + m * m), 1e-300);
      w /= length;
      m /= length;
      if (t >= burn) total += Math.log(length);
    }
    largest = Math.max(largest, total / (steps - burn));
  }
  return largest;
}

/**
 * A run of Adam or Grams on w^2/2 from w = 1, in plain numbers, as a run of many thousand steps in one frame needs it:
 * w, m and v before each step and after the last, and the denominator sqrt(vhat) + eps of each step.
 */
export function runAtRest(rule, { lr, beta1, beta2, eps, steps }) {
  if (rule !== "Adam" && rule !== "Grams") throw new RangeError(`rule must be Adam or Grams, got ${rule}`);
  const [w, m, v, denominator] = Array.from({ length: 4 }, () => new Float64Array(steps + 1));
  w[0] = 1;
  for (let [t, one, two] = [0, beta1, beta2]; t < steps; [t, one, two] = [t + 1, one * beta1, two * beta2]) {
    m[t + 1] = beta1 * m[t] + (1 - beta1) * w[t];
    v[t + 1] = beta2 * v[t] + (1 - beta2) * (w[t] * w[t]);
    denominator[t] = Math.sqrt(v[t + 1] / (1 - two)) + eps;
    const u = m[t + 1] / (1 - one) / denominator[t];
    w[t + 1] = w[t] - lr * (rule === "Grams" ? Math.sign(w[t]) * Math.abs(u) : u);
  }
  return { w, m, v, denominator: denominator.subarray(0, steps) };
}

// --- noise: reference.theory.gradient_noise ---

/** Grams' drift over Adam's at one lr where noise rules: 0.4186 at beta1 = 0.9. */
export const kappa = (beta1) =>
  (2 / Math.PI) * (beta1 * Math.sqrt((1 - beta1) / (1 + beta1)) + Math.asin(Math.sqrt(1 - beta1 * beta1)));

/** Standard normal numbers, the same for the same seed: L'Ecuyer's generator of 1988 and Marsaglia's polar method. */
export function normals(seed) {
  let [one, two, spare] = [seed + 1, 12345, null];
  const uniform = () => {
    one = (40014 * one) % 2147483563; // exact in a double: below 2^53
    two = (40692 * two) % 2147483399;
    return (one > two ? one - two : one - two + 2147483562) / 2147483563;
  };
  return () => {
    if (spare !== null) {
      const kept = spare;
      spare = null;
      return kept;
    }
    for (;;) {
      const [x, y] = [2 * uniform() - 1, 2 * uniform() - 1];
      const r = x * x + y * y;
      if (r > 0 && r < 1) {
        const scale = Math.sqrt((-2 * Math.log(r)) / r);
        spare = y * scale;
        return x * scale;
      }
    }
  };
}

// --- flows: reference.theory.hamiltonian, heavy ball with c = 0 ---

/** w' of one coordinate, k the velocity that the momentum wants: "plain", "cautious" or "grams". */
export function velocity(flow, g, k) {
  if (flow === "plain") return -k;
  if (flow === "cautious") return g * k >= 0 ? -k : 0;
  if (flow === "grams") return -Math.sign(g) * Math.abs(k);
  throw new RangeError(`flow must be plain, cautious or grams, got ${flow}`);
}

/** s' of the heavy ball with friction gamma. */
export const force = (g, s, gamma) => g - gamma * s;

/** The heavy ball's plain flow over a time h on w^T A w / 2, by the classical Runge-Kutta method: [w, s]. */
export function rollPlain(a, w, s, h, gamma) {
  const slope = (x, y) => {
    const g = times(a, x);
    return [y.map((k, i) => velocity("plain", g[i], k)), y.map((k, i) => force(g[i], k, gamma))];
  };
  const along = (x, dx, c) => x.map((value, i) => value + c * dx[i]);
  const one = slope(w, s);
  const two = slope(along(w, one[0], h / 2), along(s, one[1], h / 2));
  const three = slope(along(w, two[0], h / 2), along(s, two[1], h / 2));
  const four = slope(along(w, three[0], h), along(s, three[1], h));
  return [w, s].map((x, n) =>
    x.map((value, i) => value + (h / 6) * (one[n][i] + 2 * two[n][i] + 2 * three[n][i] + four[n][i])),
  );
}

/**
 * The heavy ball's Grams flow over a time h on w^T A w / 2, by the implicit Euler method: [w, s].
 * w' = -sign(g) |s| and s' hold with the *new* g and s, where sign(0) is any number in [-1, 1]: so it can slide on g_i = 0,
 * which an explicit step cannot. That w' is the least of g.x + h/2 x.Ax over the box |x_i| <= |s_i|, found coordinate by
 * coordinate. As 0 lies in the box, L never rises; and L + K does not, since L is convex and K's gradient is the new s.
 */
export function rollGrams(a, w, s, h, gamma) {
  const g = times(a, w);
  const x = s.map(() => 0);
  let [next, slopes] = [s, g];
  for (let sweep = 0, change = 1; sweep < 200 && change > 1e-16; sweep++) {
    change = 0;
    for (let i = 0; i < x.length; i++) {
      let pull = g[i];
      for (let j = 0; j < x.length; j++) if (j !== i) pull += h * a[i][j] * x[j];
      const limit = Math.abs(next[i]);
      const best = Math.max(-limit, Math.min(limit, -pull / (h * a[i][i])));
      change = Math.max(change, Math.abs(best - x[i]));
      x[i] = best;
    }
    slopes = times(a, x).map((ax, i) => g[i] + h * ax);
    const s1 = s.map((value, i) => (value + h * slopes[i]) / (1 + h * gamma));
    change = Math.max(change, ...s1.map((value, i) => Math.abs(value - next[i])));
    next = s1;
  }
  return [w.map((value, i) => value + h * x[i]), next];
}

// --- bfloat16 ---

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The bfloat16 number nearest to x (to the even one of two), of a finite x. */
export function bfloat16(x) {
  float[0] = x;
  bits[0] = (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) & 0xffff0000;
  return float[0];
}

/** The next bfloat16 number above v > 0 (steps = 1), or below it (-1). */
export function neighbour(v, steps) {
  float[0] = v;
  bits[0] += steps * 0x10000;
  return float[0];
}

/** Line 6 of Adam in bfloat16, as torch runs it: each operation in float32 and its result rounded. */
export function secondMoment16(v, g, beta2) {
  const kept = bfloat16(Math.fround(beta2) * v);
  const square = bfloat16(Math.fround(g * g));
  return bfloat16(kept + bfloat16(Math.fround(1 - beta2) * square));
}
