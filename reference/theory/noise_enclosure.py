"""kappa and Grams' long-run variance between bounds, for any beta1 in (0, 1) and no signal (G9, `gradient_noise`).

kappa     the closed form in balls, and beside it the integral that it is the value of, by Arb's certified quadrature.
variance  V = sum over k of cov(u_t, u_{t+k}). With m = s z, s^2 = (1 - b)/(1 + b), b = beta1, z standard normal, and
              c(z) = E[u_t | z] = s |z| erf(k z / sqrt 2), k = (1 + b) s / b,
              d(z) = E[u_{t+1} | z] = b s z (1 - erf(q |z| / sqrt 2)) + sign(z) 2 (1 - b)(1 - exp(-q^2 z^2 / 2)) / sqrt(2 pi),
          q = b s / (1 - b), the covariance at lag j >= 1 is sum over n of c_n d_n b^(n (j - 1)), c_n and d_n the coefficients
          in the normalised Hermite polynomials. Summed over j,

              V = s^2 + 2 E[c d] + 2 sum over odd n of c_n d_n b^n / (1 - b^n):

          the lag-1 term as one integral keeps what falls off slowly in n out of the series, and the factor b^n bounds the rest
          by Cauchy and Schwarz, |sum c_n d_n| <= |c| |d|. c_n and d_n come from recursions on the half line (`_Coefficients`).

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import sympy as sp
from flint import acb, arb

from reference import grams
from reference.theory.balls import ball, precision
from reference.theory.gradient_noise import response

CUT = 60  # in standard deviations: where the integrals over z are cut off, with a bound of the rest


def _beta(beta1: str) -> arb:
    b = ball(beta1)
    if not (b > 0 and b < 1):
        raise ValueError(f"beta1 must be a decimal as text in (0, 1), got {beta1!r}")
    return b


def kappa(beta1: str, *, bits: int = 128) -> arb:
    """The closed form of `gradient_noise.kappa`, enclosed."""
    with precision(bits):
        b = _beta(beta1)
        return 2 / arb.pi() * (b * ((1 - b) / (1 + b)).sqrt() + (1 - b**2).sqrt().asin())


def kappa_integral(beta1: str, *, bits: int = 128) -> arb:
    """E[u score], enclosed by quadrature: g = r cos(theta), m = s r cos(theta - alpha), sin(alpha) = beta1, r integrates to 2.

    On an arc where g and m keep their signs u is m or -m, as the lines say; the score is (1, 1) C^-1 (g, m).
    """
    g, m = sp.symbols("g m", positive=True)
    agree, differ = (int(sp.simplify(response(grams, sign * g, m) / m)) for sign in (1, -1))
    with precision(bits):
        b = _beta(beta1)
        alpha, s = b.asin(), ((1 - b) / (1 + b)).sqrt()
        det = s**2 - (1 - b) ** 2
        half = arb.pi() / 2
        ends = [(-half, 1, -1), (alpha - half, 1, 1), (half, -1, 1), (alpha + half, -1, -1), (3 * half, 1, -1)]
        total = arb(0)
        for (low, sign_g, sign_m), (high, _, _) in pairwise(ends):
            sign = agree if sign_g == sign_m else differ

            def integrand(theta: Any, _: Any, sign: int = sign) -> Any:
                x, y = theta.cos(), (theta - acb(alpha)).cos() * acb(s)
                score = ((acb(s**2) - acb(1 - b)) * x + acb(b) * y) / acb(det)
                return sign * y * score

            total += acb.integral(integrand, acb(low), acb(high)).real
        return total / arb.pi()


class _Coefficients:
    """Normalised Hermite coefficients, for odd n, of odd functions that are f on z > 0: 2 int_0^inf f He_n phi / sqrt(n!).

    All rest on H_n = He_n(0) and on partial integration, He_n phi = -(He_{n-1} phi)':
        one    int He_n phi = H_{n-1} phi(0)             line   int z He_n phi = int He_{n-1} phi
        gauss  int exp(-x^2 z^2 / 2) He_n phi            by He_n = z He_{n-1} - (n - 1) He_{n-2}
        error  int z erf(x z / sqrt 2) He_n phi          through int erf He_{n-1} phi and int z exp(...) He_{n-1} phi
    """

    def __init__(self, orders: int) -> None:
        self.orders, self.phi0 = orders, 1 / (2 * arb.pi()).sqrt()
        self.at_zero = [arb(1), arb(0)]
        for n in range(2, orders + 1):
            self.at_zero.append(-(n - 1) * self.at_zero[n - 2])
        norm, self.norms = arb(1), [arb(1)]
        for n in range(1, orders + 1):
            norm *= arb(n).sqrt()
            self.norms.append(norm)

    def _normalised(self, values: dict[int, arb]) -> dict[int, arb]:
        return {n: 2 * x / self.norms[n] for n, x in values.items()}

    def _plain(self, n: int) -> arb:
        return arb(1) / 2 if n == 0 else self.at_zero[n - 1] * self.phi0

    def one(self) -> dict[int, arb]:
        return self._normalised({n: self._plain(n) for n in range(1, self.orders + 1, 2)})

    def line(self) -> dict[int, arb]:
        return self._normalised({n: self._plain(n - 1) for n in range(1, self.orders + 1, 2)})

    def _gauss(self, x: arb) -> list[arb]:
        a = 1 + x**2  # exp(-x^2 z^2 / 2) phi = phi0 exp(-a z^2 / 2)
        out = [1 / a.sqrt() / 2, self.phi0 / a]
        for n in range(2, self.orders + 1):
            out.append((self.at_zero[n - 1] * self.phi0 + (n - 1) * out[n - 2]) / a - (n - 1) * out[n - 2])
        return out

    def gauss(self, x: arb) -> dict[int, arb]:
        values = self._gauss(x)
        return self._normalised({n: values[n] for n in range(1, self.orders + 1, 2)})

    def error(self, x: arb) -> dict[int, arb]:
        g, slope = self._gauss(x), 2 * x * self.phi0  # d/dz erf(x z / sqrt 2) = 2 x phi0 exp(-x^2 z^2 / 2)
        out: dict[int, arb] = {}
        for n in range(1, self.orders + 1, 2):
            lower = n - 1  # even: int erf He_lower phi, which for 0 is the angle atan(x) / pi
            plain = (x.atan() / arb.pi()) if lower == 0 else slope * g[lower - 1]
            tilted = g[lower + 1] + (lower * g[lower - 1] if lower else 0)
            out[n] = plain + slope * tilted  # z He_lower = He_{lower+1} + lower He_{lower-1}
        return self._normalised(out)


def coefficients(beta1: str, orders: int) -> tuple[dict[int, arb], dict[int, arb]]:
    """c_n and d_n for odd n <= orders, at the present precision."""
    b = _beta(beta1)
    s = ((1 - b) / (1 + b)).sqrt()
    rows, k, q = _Coefficients(orders), (1 + b) * s / b, b * s / (1 - b)
    first, line, erf, one, gauss = rows.error(k), rows.line(), rows.error(q), rows.one(), rows.gauss(q)
    c = {n: s * x for n, x in first.items()}
    d = {n: b * s * (line[n] - erf[n]) + 2 * (1 - b) * rows.phi0 * (one[n] - gauss[n]) for n in c}
    return c, d


def conditional_means(beta1: str, z: Any) -> tuple[Any, Any]:
    """c(z) and d(z) for z > 0, a complex ball: what the coefficients are the coefficients of."""
    b = _beta(beta1)
    s, root2 = ((1 - b) / (1 + b)).sqrt(), arb(2).sqrt()
    k, q = (1 + b) * s / b, b * s / (1 - b)
    c = acb(s) * z * (z * acb(k / root2)).erf()
    tail = 1 - (-((acb(q) * z) ** 2) / 2).exp()
    return c, acb(b * s) * z * (1 - (z * acb(q / root2)).erf()) + acb(2 * (1 - b) / (2 * arb.pi()).sqrt()) * tail


def _normal_mean(f: Any) -> arb:
    """2 int_0^inf f phi for |f| <= z^2 + z, analytic: quadrature up to CUT, and (CUT + 2) phi(CUT) bounds the rest."""

    def integrand(z: Any, _: Any) -> Any:
        return f(z) * (-(z**2) / 2).exp() / acb((2 * arb.pi()).sqrt())

    rest = 2 * (CUT + 2) * (-(arb(CUT) ** 2) / 2).exp()
    return 2 * acb.integral(integrand, acb(0), acb(CUT)).real + arb(0, 1) * rest


def long_run_variance(beta1: str, *, orders: int = 401, bits: int = 800) -> arb:
    """V of Grams at snr = 0, in units of lr^2, enclosed. orders: how many Hermite orders are summed, odd; the rest is bounded.

    The recursions lose digits with the order: about two bits for each, which `bits` must cover for a narrow ball.
    """
    if orders < 1 or orders % 2 == 0:
        raise ValueError(f"orders must be an odd number >= 1, got {orders}")
    with precision(bits):
        b = _beta(beta1)
        s = ((1 - b) / (1 + b)).sqrt()
        c, d = coefficients(beta1, orders)
        series = sum((c[n] * d[n] * b**n / (1 - b**n) for n in c), arb(0))
        rest = b ** (orders + 2) / (
            1 - b ** (orders + 2)
        )  # |c| |d| <= s^2 <= 1: both are means of Grams' steps, given m
        series += arb(0, 1) * (rest * s**2)
    with precision(128):

        def product(z: Any) -> Any:
            first, second = conditional_means(beta1, z)
            return first * second

        return s**2 + 2 * _normal_mean(product) + 2 * series
