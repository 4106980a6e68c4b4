"""Image-image similarities from image-text similarities alone (Reevaluating, Sec. 3.1 and App. A).

Images X_I (N, d) and texts X_T (n_T, d) have unit rows, and S = X_T X_I^T (n_T, N) is given. With the texts known,
X_I is a least-squares solution (Eq. 2). Without them, the rows v_i of V (N, d), which spans the columns of X_I, tell
the images up to a linear map, x_i = C^T v_i, and their norms tell Q = C C^T: v_i^T Q v_i = 1 (Eq. 8) is a linear
system of N equations for the d (d + 1) / 2 entries of a symmetric Q. It is solved by products with V alone; the
coefficient matrix of Eq. 9, N times d^2 numbers, is never formed. All numbers are float64.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cholesky, eigh, expm, lstsq, qr, solve_triangular
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lsmr
from scipy.special import logit

from crossgap_lib.errors import CrossgapError
from crossgap_lib.memory import PeakMemory
from crossgap_lib.tasks.pairs import matrix, of_unit_norm

Similarities = np.ndarray | LinearOperator  # S (n_T, N), as numbers or as products with it

BLOCK = 4096  # rows at a time, where an array of all rows would be an array too many
_SINGULAR = 1e-11  # of the largest: smaller singular values count as zero


def unknowns(d: int) -> int:
    """Free entries of a symmetric (d, d) matrix: how many norms it takes to determine Q (App. A, after Eq. 9)."""
    return d * (d + 1) // 2


# ---------------------------------------------------------------- with anchors


@dataclass(frozen=True)
class Anchors:
    """How well texts serve as anchors: the singular values of X_T[J] (k, d), min(k, d) of them, largest first."""

    d: int
    singular: np.ndarray

    @property
    def condition(self) -> float:
        """Largest over smallest of d singular values; infinite with k < d, as some direction then meets no anchor."""
        spanned = len(self.singular) == self.d and self.singular[-1] > 0
        return float(self.singular[0] / self.singular[-1]) if spanned else float("inf")

    def rank(self, noise: float = 1e-12) -> int:
        """How many singular values noise does not hide; ``noise`` is relative to the largest."""
        return int((self.singular > noise * self.singular[0]).sum())


def describe_anchors(texts: np.ndarray) -> Anchors:
    """Singular values, rank and condition number of the anchor matrix (k, d)."""
    texts = matrix("anchors", texts)
    return Anchors(texts.shape[1], np.linalg.svd(texts, compute_uv=False))


def from_anchors(texts: np.ndarray, s: np.ndarray, cutoff: float = 0.0) -> np.ndarray:
    """X_I (N, d) from k known texts (k, d) and S (k, N), by least squares (Eq. 2).

    Where the texts do not span all d dimensions, the part of the images that no text sees comes out as zero.

    Args:
        cutoff: singular values of the texts below this count as zero; the answer to noise on S.

    Raises:
        CrossgapError: no matrices, NaN, or k differs between the two.
    """
    texts, s = matrix("anchors", texts), matrix("similarities", s)
    if len(texts) != len(s):
        raise CrossgapError(f"{len(texts)} anchors do not go with similarities to {len(s)} texts.")
    largest = np.linalg.norm(texts, 2)
    images, *_ = lstsq(texts, s, cond=max(cutoff / largest, _SINGULAR))
    return images.T


# ---------------------------------------------------------------- without anchors


def column_space(s: Similarities, d: int, *, rounds: int = 0, seed: int = 0) -> np.ndarray:
    """V (N, d), the right singular space of S (Eq. 5), scaled to V^T V = N I.

    Products of S with d random columns span it where S has rank d exactly. On a noisy S, ``rounds`` of subspace
    iteration with d spare columns give that of the d largest singular values (Halko et al., 2011).

    Raises:
        CrossgapError: S is no matrix, holds NaN, or has a rank below d.
    """
    s = s if isinstance(s, LinearOperator) else aslinearoperator(matrix("similarities", s))
    if not 1 <= d <= min(s.shape):
        raise CrossgapError(f"Similarities of shape {s.shape} can't have rank {d}.")
    width = d if rounds == 0 else min(2 * d, *s.shape)
    v = _orthonormal(s.rmatmat(np.random.default_rng(seed).standard_normal((s.shape[0], width))), d)
    for _ in range(rounds):
        v = _orthonormal(s.rmatmat(_orthonormal(s.matmat(v), d)), d)
    if width > d:
        v = v @ np.linalg.svd(s.matmat(v), full_matrices=False)[2][:d].T
    v *= np.sqrt(len(v))
    return v


def _orthonormal(y: np.ndarray, d: int) -> np.ndarray:
    """An orthonormal basis of the columns of y (rows, columns), in the place of y where y is in Fortran order."""
    if not np.isfinite(y).all():
        raise CrossgapError("The products with the similarities hold NaN or infinity.")
    q, r = qr(y, mode="economic", overwrite_a=True, check_finite=False)
    sizes = np.abs(r.diagonal())
    if (found := int((sizes > _SINGULAR * sizes.max()).sum())) < d:
        raise CrossgapError(f"The similarities have rank {found}, which is less than d = {d}.")
    return q


def _upper(d: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Where a symmetric (d, d) matrix has its own entries, and their weights: as a vector it keeps its length."""
    where = np.triu_indices(d)
    return where, np.where(where[0] == where[1], 1.0, np.sqrt(2))


def as_vector(q: np.ndarray) -> np.ndarray:
    """Symmetric (d, d) -> (d (d + 1) / 2,), an isometry."""
    where, weights = _upper(len(q))
    return q[where] * weights


def as_symmetric(x: np.ndarray, d: int) -> np.ndarray:
    """(d (d + 1) / 2,) -> symmetric (d, d), the inverse of ``as_vector``."""
    where, weights = _upper(d)
    q = np.zeros((d, d))
    q[where] = x / weights
    return q + np.triu(q, 1).T


def norm_equations(v: np.ndarray) -> LinearOperator:
    """The linear map of Eq. 8, Q -> diag(V Q V^T), and its adjoint r -> V^T diag(r) V, by products with V (N, d).

    Shape (N, d (d + 1) / 2): Q enters as ``as_vector`` writes it.
    """
    n, d = v.shape
    rows = [torch.from_numpy(v[k : k + BLOCK]) for k in range(0, n, BLOCK)]

    def norms(x: np.ndarray) -> np.ndarray:
        q = torch.from_numpy(as_symmetric(x.ravel(), d))
        return torch.cat([(block @ q).mul_(block).sum(dim=1) for block in rows]).numpy()

    def adjoint(r: np.ndarray) -> np.ndarray:
        total = torch.zeros(d, d, dtype=torch.float64)
        for block, weights in zip(rows, torch.from_numpy(r.ravel()).split(BLOCK), strict=True):
            total.addmm_((block * weights[:, None]).T, block)
        return as_vector(total.numpy())

    return LinearOperator((n, unknowns(d)), matvec=norms, rmatvec=adjoint, dtype=np.float64)


def solve_norms(v: np.ndarray, *, tolerance: float = 1e-12, most: int = 5000) -> tuple[np.ndarray, int]:
    """(Q (d, d), iterations): least squares on diag(V Q V^T) = 1 (Eq. 8), without a matrix (LSMR).

    With fewer than d (d + 1) / 2 rows there are many solutions, and the Q of least norm comes out.

    Args:
        v: (N, d), best with V^T V = N I, which makes the iteration fast.
        tolerance: of the residuals, relative; the similarities end about a hundred times above it.
        most: iterations.
    """
    v = matrix("rows of V", v)
    x, _, iterations, *_ = lsmr(
        norm_equations(v), np.ones(len(v)), atol=tolerance, btol=tolerance, conlim=0, maxiter=most
    )
    return as_symmetric(x, v.shape[1]), iterations


def _dense(v: np.ndarray) -> np.ndarray:
    """The coefficient matrix of Eq. 9 without its doubled columns, (N, d (d + 1) / 2): for small problems only."""
    (j, k), weights = _upper(v.shape[1])
    return v[:, j] * v[:, k] * weights


def solve_norms_directly(v: np.ndarray) -> np.ndarray:
    """Q (d, d) as ``solve_norms`` finds it, by QR of the whole system: exact to rounding, for d up to about 50."""
    x, *_ = lstsq(_dense(v), np.ones(len(v)), lapack_driver="gelsy", check_finite=False)
    return as_symmetric(x, v.shape[1])


def solve_both_norms(v: np.ndarray, w: np.ndarray, most: int = 25) -> tuple[np.ndarray, float]:
    """(Q (d, d), largest remaining |norm^2 - 1|): the texts' norms as well, which the paper leaves aside.

    S = W V^T gives the texts as t_j = C^-1 w_j, so that w_j^T Q^-1 w_j = 1: as many equations again, but not linear.
    Gauss-Newton on Q = L L^T -> L exp(Z) L^T, which stays positive definite; for small problems only.

    Args:
        v: (N, d), as ``column_space`` returns it.
        w: (n_T, d), S V / N.
    """
    q = _positive(solve_norms_directly(v))
    left = np.inf
    for _ in range(most):
        root = cholesky(q, lower=True)
        x, t = v @ root, solve_triangular(root, w.T, lower=True).T  # images and texts up to a rotation
        missing = np.concatenate([1 - (x**2).sum(axis=1), 1 - (t**2).sum(axis=1)])
        enough, left = left < 1e-10, float(np.abs(missing).max())
        if enough:  # one step after: convergence is quadratic, so what remains is rounding
            break
        step, *_ = lstsq(np.vstack([_dense(x), -_dense(t)]), missing, lapack_driver="gelsy", check_finite=False)
        z = as_symmetric(step, len(q))
        q = root @ expm(z * min(1.0, 0.5 / np.linalg.norm(z, 2))) @ root.T
    return q, left


def _positive(q: np.ndarray) -> np.ndarray:
    """Q with eigenvalues of at least a hundredth of the largest: a start that has a Cholesky root."""
    values, vectors = eigh(q)
    return (vectors * values.clip(values[-1] / 100)) @ vectors.T


@dataclass(frozen=True)
class Recovery:
    """S_intra = V Q V^T (Eq. 10), kept as its factors."""

    v: np.ndarray  # (N, k)
    q: np.ndarray  # (k, k), symmetric
    iterations: int = 0

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Recovered similarities of these images to all: (rows, N)."""
        return (self.v[rows] @ self.q) @ self.v.T

    def residual(self) -> float:
        """The largest |norm^2 - 1| that is left: noise, or a wrong d."""
        norms = norm_equations(self.v).matvec(as_vector(self.q))
        return float(np.abs(norms - 1).max())


def recover(s: Similarities, d: int, *, rounds: int = 0, tolerance: float = 1e-12, seed: int = 0) -> Recovery:
    """Image-image similarities from S (n_T, N) and d alone (Eq. 4-10).

    Raises:
        CrossgapError: bad S (see ``column_space``), or fewer images than unknowns.
    """
    _enough(s.shape[1] if s.ndim == 2 else 0, unknowns(d))
    v = column_space(s, d, rounds=rounds, seed=seed)
    return Recovery(v, *solve_norms(v, tolerance=tolerance))


def _enough(n: int, needed: int) -> None:
    if n < needed:
        raise CrossgapError(f"{n} images give {n} equations for {needed} unknowns: at least {needed} images it takes.")


def largest_error(found: Recovery, images: "np.ndarray | RandomUnits", n_rows: int = 500) -> tuple[float, float]:
    """(root mean square, largest) difference of the first ``n_rows`` images' similarities to all others.

    Block by block: no (N, N) array. A row with itself is left out, since its similarity of 1 is what was put in.
    """
    first, left = images[:n_rows], found.v[:n_rows] @ found.q
    squares, largest = 0.0, 0.0
    for start in range(0, len(found.v), BLOCK):
        block = slice(start, start + BLOCK)
        off = left @ found.v[block].T - first @ images[block].T
        if start == 0:
            np.fill_diagonal(off, 0)
        squares, largest = squares + float((off**2).sum()), max(largest, float(np.abs(off).max()))
    return float(np.sqrt(squares / (len(first) * (len(found.v) - 1)))), largest


# ---------------------------------------------------------------- from what a loss sees


def log_odds(p: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """SigLIP's scale * S + bias from its probabilities sigmoid(scale * S + bias), any shape.

    They are first moved ``noise`` off 0 and 1, at least float64's rounding: nearer, a probability has no logit to tell.
    """
    return logit(np.clip(p, max(noise, 1e-300), 1 - max(noise, 2**-53)))


def from_text_softmax(
    log_p: np.ndarray, scale: float, d: int, *, rounds: int = 0, tolerance: float = 1e-12
) -> Recovery:
    """From log-probabilities (n_T, N) of the texts given an image, which tell scale * S up to a constant an image.

    Centred over the texts, S becomes (X_T - mean) X_I^T, whose right singular space still is that of X_I.
    """
    log_p = matrix("log-probabilities", log_p) / scale
    return recover(log_p - log_p.mean(axis=0), d, rounds=rounds, tolerance=tolerance)


def from_image_softmax(
    log_p: np.ndarray, scale: float, d: int, *, rounds: int = 0, tolerance: float = 1e-12
) -> Recovery:
    """From log-probabilities (n_T, N) of the images given a text, which tell scale * S up to a constant a text.

    Centred over the images, S becomes X_T (X_I - mean)^T, so x_i = C^T v_i + mu, and the system is solved on [v_i, 1].
    The constant matrix has a diagonal of ones, too: (1 - t) S_intra + t solves it for every t, and one of these comes
    out. Their order is the images' own for t < 1; ``in_d_dimensions`` finds t = 0.

    Raises:
        CrossgapError: bad numbers, or fewer than (d + 1) (d + 2) / 2 - 1 images.
    """
    log_p = matrix("log-probabilities", log_p) / scale
    _enough(log_p.shape[1], unknowns(d + 1) - 1)
    v = column_space(log_p - log_p.mean(axis=1, keepdims=True), d, rounds=rounds)
    v = np.hstack([v, np.ones((len(v), 1))])
    return Recovery(v, *solve_norms(v, tolerance=tolerance))


def in_d_dimensions(found: Recovery) -> Recovery:
    """Of the family (1 - t) S_intra + t, the member that fits into d dimensions, where t = 0.

    Q is (d + 1, d + 1); taking t e e^T off (e: the constant's entry) makes it singular for t = 1 / (e^T Q^-1 e) alone.
    """
    e = np.eye(len(found.q))[-1]
    t = 1 / (e @ np.linalg.solve(found.q, e))
    return Recovery(found.v, (found.q - t * np.outer(e, e)) / (1 - t), found.iterations)


# ---------------------------------------------------------------- at full size


class RandomUnits:
    """N random unit vectors (N, d), made when asked for: an array of them would be most of a benchmark's memory."""

    def __init__(self, n: int, d: int, seed: int = 0):
        if min(n, d) < 1:
            raise CrossgapError(f"There are no {n} unit vectors of {d} dimensions.")
        self.shape, self.seed = (n, d), seed

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows start:stop of one block: start a multiple of BLOCK, and at most BLOCK rows."""
        start, stop, _ = rows.indices(len(self))
        made = np.random.default_rng([self.seed, start // BLOCK, 1]).standard_normal((BLOCK, self.shape[1]))
        return of_unit_norm(made[: stop - start])


def products(texts: RandomUnits, images: RandomUnits) -> LinearOperator:
    """S = X_T X_I^T as S^T Y (N, columns) = X_I (X_T^T Y), a block at a time."""

    def transposed(y: np.ndarray) -> np.ndarray:
        inner = sum(texts[k : k + BLOCK].T @ y[k : k + BLOCK] for k in range(0, len(texts), BLOCK))  # (d, columns)
        out = np.empty((len(images), y.shape[1]), order="F")  # as ``_orthonormal`` wants it
        for k in range(0, len(images), BLOCK):
            out[k : k + BLOCK] = images[k : k + BLOCK] @ inner
        return out

    refuse = lambda x: np.full((len(texts), 1), np.nan)  # noqa: E731  nothing here multiplies from this side
    return LinearOperator((len(texts), len(images)), matvec=refuse, rmatmat=transposed, dtype=np.float64)


def benchmark(d: int, n: int, *, tolerance: float = 1e-10, seed: int = 0) -> dict[str, float]:
    """Recovers the similarities of n random images from those to n random texts, and measures it.

    Returns seconds (space, solve, all), iterations, rms and largest error of 500 images against all, the largest
    norm error left, and peak_bytes (None where memory can't be measured).

    Raises:
        CrossgapError: fewer than d (d + 1) / 2 images.
    """
    _enough(n, unknowns(d))
    texts, images = RandomUnits(n, d, 2 * seed), RandomUnits(n, d, 2 * seed + 1)
    with PeakMemory(torch.device("cpu")) as peak:
        started = time.perf_counter()
        v = column_space(products(texts, images), d, seed=seed)
        spanned = time.perf_counter()
        found = Recovery(v, *solve_norms(v, tolerance=tolerance))
        solved = time.perf_counter()
        rms, largest = largest_error(found, images)
    return {
        "d": d,
        "n": n,
        "unknowns": unknowns(d),
        "seconds_space": spanned - started,
        "seconds_solve": solved - spanned,
        "seconds": time.perf_counter() - started,
        "iterations": found.iterations,
        "rms": rms,
        "largest": largest,
        "residual": found.residual(),
        "peak_bytes": peak.bytes,
        "threads": torch.get_num_threads(),
    }
