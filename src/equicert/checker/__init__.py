"""A checker of certificates that shares no code with the prover: exact, standard library only.

The network is `z = phi(W z + U x + b)`, `y = C z + c`: W (n, n), U (n, r), C (q, n), its weights
the binary floating-point numbers of the model file, each taken as the rational that it is; where W
or U is stored as a convolution, or as blocks, it is the matrix that `structures.py` defines, whose
entries are stored numbers or 0, and `matrices.py` multiplies by it and by its absolute value. phi
acts entrywise and is continuous, weakly increasing and non-expansive, `0 <= phi(s) - phi(t) <= s -
t` for s >= t; only functions for which this is known are admitted (`functions.py`). Write
`M_ii = W_ii`, `M_ij = |W_ij|`, and `r_i(z, x) = sum_{j != i} W_ij z_j + (U x)_i + b_i`. A record is
about a label y and a box X of inputs that is not empty.

THEOREM 1 (a box of states `Z = [lo, hi]`). Let eta > 0 have `(M eta)_i < eta_i` for every i. Let
`[r_lo_i, r_hi_i]` be the range of `r_i` over z in Z and x in X, and let for every i

    lo_i <= hi_i,   phi(W_ii lo_i + r_lo_i) >= lo_i,   phi(W_ii hi_i + r_hi_i) <= hi_i.

Then for each x in X there is exactly one z with `z = phi(W z + U x + b)`, and it lies in Z. If also
`(C_y - C_j) z + c_y - c_j > 0` for all z in Z and all j != y, y has strictly the largest output.

PROOF. At most one: let z, z' be two, d = z - z', and i an entry where |d_i| / eta_i is largest,
equal to k > 0. By the property of phi, `d_i = s (W d)_i` with some s in [0, 1], and s > 0 as d_i is
not 0. So `(1 - s W_ii) |d_i| <= s sum_{j != i} |W_ij| |d_j| <= s k sum_{j != i} |W_ij| eta_j`, and
this is less than `s k (eta_i - W_ii eta_i)` by the choice of eta (W_ii < 1 follows from it, so that
the left factor is positive). With |d_i| = k eta_i it says `1 - s W_ii < s - s W_ii`, that is 1 < s:
a contradiction.

At least one, in Z: as W_ii < 1, the function `h(s) = phi(W_ii s + r) - s` is continuous, strictly
decreasing and unbounded both ways: it has one root psi_i(r), continuous in r. For z in Z, x in X
let r = r_i(z, x) >= r_lo_i. Then `h(lo_i) >= phi(W_ii lo_i + r_lo_i) - lo_i >= 0`, hence `psi_i(r)
>= lo_i`; in the same way `psi_i(r) <= hi_i`. So `z -> psi(r(z, x))` maps Z, which is convex,
compact and not empty, continuously into itself. By Brouwer's theorem it has a fixed point in Z, and
that is a z with `z = phi(W z + U x + b)`.  QED

THEOREM 2 (a ball). Let Lambda be diagonal and positive, m > 0, `sym(Lambda (I - W)) >= m Lambda`,
and norm >= `||Lambda^(1/2) U||_2`. Then W_ii < 1, for each x there is exactly one z = z*(x) with `z
= phi(W z + U x + b)`, and for every t and x0, with v = W phi(t) + U x0 + b - t,

    ||phi(t) - z*(x)||_Lambda <= (||v||_Lambda + norm ||x - x0||_2) / m,
    ||v||_Lambda^2 = v^T Lambda v.

So z*(x) lies in the box of those z in the range of phi with `|z_i - phi(t_i)| <= R /
Lambda_i^(1/2)`, R the right side at the greatest `||x - x0||_2` over X.

PROOF. W_ii <= 1 - m from a diagonal entry. Let f weakly increase and be non-expansive, entrywise, d
= t - t', e = f(t) - f(t'), and F(t) = t - W f(t) - u. As e_i d_i >= e_i^2, `e^T Lambda (F(t) -
F(t')) = e^T Lambda (d - W e) >= e^T Lambda (I - W) e >= m ||e||_Lambda^2`, so `||e||_Lambda <=
||F(t) - F(t')||_Lambda / m` (*). With u = U x + b, f = phi and F(t') = 0 it is the bound, since
`F(t) = -v - U (x - x0)`; with F(t) = F(t') = 0 it is uniqueness. For existence cut phi off at -+K:
that f is bounded and as (*) asks, so `f(W z + u)` has a fixed point f(t') by Brouwer's theorem, and
by (*) with t = 0 its size has a bound that does not depend on K once K >= |phi(0)|. For K beyond it
nothing is cut off: f(t') = phi(t').  QED

THEOREM 3 (trees). Let W_ii < 1 for all i, and let every x in X have a fixed point z in Z, for some
box Z. `psi_i(r)`, the one root z of `z = phi(W_ii z + r)`, is z_i at r = r_i(z, x). Let l <= u be
such that `l <= r <= u` at some set of pairs (z, x) of fixed points and inputs. For any lambda, a
and c, with `p_i = a_i + sum_{j != i} W_ji lambda_j`,

    g = c + lambda^T b + sum_i min_{l_i <= s <= u_i} (p_i psi_i(s) - lambda_i s)
          + min_{x in X} (U^T lambda)^T x

is a lower bound on `a^T z + c` at all pairs of the set; and if a = 0, c = 0 and g > 0 the set is
empty.

PROOF. `a^T z + c = a^T z + c + lambda^T (W_off z + U x + b - r)`, as the bracket is 0. Sorted by z,
r and x it is `c + lambda^T b + sum_i (p_i psi_i(r_i) - lambda_i r_i) + (U^T lambda)^T x`, and each
term is at least its least value on its interval. If g > 0 bounds 0 from below, there is no pair.
QED

The form `+-r_i(z, x)` is bounded by the same formula with lambda +- e_i in the place of lambda, a =
0 and c = 0, but for the products `lambda_i s`, where lambda stays: `+-r_i` is row i of `+-(W_off z
+ U x + b)`. Where phi is piecewise linear so is psi_i, and a minimum lies at l_i, u_i or at a
breakpoint of psi_i between them.

A proof starts with the range of r over Z and X: all pairs. A lemma `r_i >= value` or `r_i <= value`
holds on the set that its bounds stand for, and may then replace l_i or u_i for that set. A split of
[l_i, u_i] at k makes two sets, `r_i <= k` and `r_i >= k`, which together are the set. A margin
holds on a set where a multiplier shows it or shows the set empty, or where it holds on both parts.
So, by induction from the leaves, each root shows its margin for all x in X. Bounds with l_i > u_i
are refused: the formula's minimum would be over nothing, and there a false lemma would seem to
hold.

A WITNESS is a point x of the box, a rival j and a start over [x, x] (theorem 1 or 2) for whose box
Z it is `(C_y - C_j) z + c_y - c_j < 0` for all z in Z: at x the output of j is greater than that of
y.

What is checked is exactly this, in integers, in the order

1. the digest of the weights is the one claimed; activation and sizes agree
                                                    (`model.py`, `structures.py`, `folder.py`)
2. eta > 0 and `(M eta)_i < eta_i`; Lambda, m and norm           (`exact.py`, `definite.py`)
3. the inputs have the digest claimed; the box is one about that input; a witness lies in it
                                                                       (`folder.py`, `box.py`)
4. the inequalities of theorem 1 for Z, or the ball of theorem 2 and its box Z      (`start.py`)
5. each margin is at least the one claimed, which is > 0: over Z, or by trees (theorem 3); or the
   margin of a witness is < 0                           (`check.py`, `tree.py`, `lemmas.py`)

and `docs/certificates.md` says how the files are laid out. To trust the word `valid`, read the
files of this folder, and trust Python's integers, its struct, json, zipfile, hashlib and the
reading of files. No floating-point operation decides anything.
"""

from equicert.checker.check import Report, check_folder
from equicert.checker.command import main
from equicert.checker.files import NotValidError, UnreadableError

__all__ = ["NotValidError", "Report", "UnreadableError", "check_folder", "main"]
