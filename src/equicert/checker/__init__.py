"""A checker of certificates that shares no code with the prover: exact, standard library only.

The network is `z = phi(W z + U x + b)`, `y = C z + c`: W (n, n), U (n, r), C (q, n), its weights
the binary floating-point numbers of the model file, each taken as the rational that it is. phi acts
entrywise and is continuous, weakly increasing and non-expansive, `0 <= phi(s) - phi(t) <= s - t`
for s >= t; only functions for which this is known are admitted (`functions.py`). Write
`M_ii = W_ii`, `M_ij = |W_ij|`. A certificate is a label y, a box X of inputs that is not empty, and
a box `Z = [lo, hi]` of states.

THEOREM. Let eta > 0 have `(M eta)_i < eta_i` for every i. Let `[r_lo_i, r_hi_i]` be the range of
`r_i(z, x) = sum_{j != i} W_ij z_j + (U x)_i + b_i` over z in Z and x in X, and let for every i

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
let r = r_i(z, x) >= r_lo_i. Then `h(lo_i) >= phi(W_ii lo_i + r_lo_i) - lo_i >= 0`, hence
`psi_i(r) >= lo_i`; in the same way `psi_i(r) <= hi_i`. So `z -> psi(r(z, x))` maps Z, which is
convex, compact and not empty, continuously into itself. By Brouwer's theorem it has a fixed point
in Z, and that is a z with `z = phi(W z + U x + b)`.  QED

What is checked is exactly this, in integers, in the order

1. the digest of the weights is the one claimed; activation and sizes agree        (`folder.py`)
2. eta > 0 and `(M eta)_i < eta_i`                                                   (`exact.py`)
3. the inputs have the digest claimed; the box is one about that input   (`folder.py`, `exact.py`)
4. the inequalities of the theorem for Z                                           (`exact.py`)
5. each margin is at least the one claimed, which is > 0                           (`exact.py`)

and `docs/certificates.md` says how the files are laid out. To trust the word `valid`, read the
files of this folder, and trust Python's integers, its struct, json, zipfile, hashlib and the
reading of files. No floating-point operation decides anything.
"""

from equicert.checker.check import Report, check_folder
from equicert.checker.command import main
from equicert.checker.files import NotValidError, UnreadableError

__all__ = ["NotValidError", "Report", "UnreadableError", "check_folder", "main"]
