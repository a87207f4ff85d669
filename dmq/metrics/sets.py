"""How far two sets of pictures are from each other, by their features [N, D]; no network, no files.

torchmetrics has FID and KID too, but around an Inception network of its own, whose weights it fetches, and without
CMMD; here the features are anybody's and the arithmetic is float64.
"""

import numpy as np

from ..errors import DmqError


FEWEST = {"fid": 16, "kid": 2, "cmmd": 2}  # pictures of a set
WHY = {
    "fid": "the covariance of n pictures has rank n - 1, and with fewer the distance measures little but n",
    "kid": "an unbiased estimate needs pairs of different pictures",
    "cmmd": "one picture is no distribution",
}


def check_count(measure: str, count: int) -> None:
    """Raise DmqError if `count` pictures are too few for `measure`, saying the minimum and why."""
    if count < FEWEST[measure]:
        raise DmqError(
            f"{measure.upper()} needs at least {FEWEST[measure]} pictures, got {count}: {WHY[measure]}. Draw more "
            f"prompts or seeds, or leave {measure.upper()} out."
        )


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to features [N, D] and [M, D]; Heusel et al., arXiv:1706.08500, eq. (6).

    Raises DmqError for fewer than 16 rows. Biased upwards by about 1/n: compare with a noise floor of the same n.
    """
    a, b = _checked("fid", a, b)
    return _frechet(a.mean(0), _factor(a), b.mean(0), _factor(b))


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """||mean_a - mean_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of means [D] and covariances [D, D]."""
    return _frechet(mean_a, _root(cov_a), mean_b, _root(cov_b))


def _frechet(mean_a: np.ndarray, root_a: np.ndarray, mean_b: np.ndarray, root_b: np.ndarray) -> float:
    """The same of factors R [k, D] with R^T R = S.

    Tr (S_a S_b)^(1/2) = Tr (S_a^(1/2) S_b S_a^(1/2))^(1/2) is the sum of the singular values of R_a R_b^T, whichever
    factors: no root of a product is taken, which is inexact where that is singular.
    """
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    apart = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(apart, 0.0))


def _factor(features: np.ndarray) -> np.ndarray:
    """R [min(N, D), D] with R^T R the covariance of features [N, D]."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else _root(centred.T @ centred)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semidefinite matrix, by its eigendecomposition."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased MMD^2 of features [N, D], [M, D] with kernel (x.y / D + 1)^3; Binkowski et al., arXiv:1801.01401.

    Around 0 for sets of the same distribution, so also below. Raises DmqError for fewer than 2 rows.
    """
    a, b = _checked("kid", a, b)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        gram = kernel(x, x)
        return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def cmmd(a: np.ndarray, b: np.ndarray, sigma: float = 10.0) -> float:
    """1000 MMD^2 of features [N, D], [M, D], scaled to unit length, with kernel exp(-||x - y||^2 / (2 sigma^2)).

    Jayasumana et al., arXiv:2401.09603, as released: pairs of a picture with itself count (the biased estimate), so
    that it is 0 for equal sets only. Raises DmqError for fewer than 2 rows.
    """
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in _checked("cmmd", a, b))

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        return float(np.expm1(-squared.clip(0) / (2 * sigma**2)).mean())  # the 1 of each kernel cancels below

    return 1000 * max(mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b), 0.0)


def _checked(measure: str, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be [N, D] and [M, D], got {a.shape} and {b.shape}")
    check_count(measure, min(len(a), len(b)))
    return a, b


SET_MEASURES = {"fid": fid, "kid": kid, "cmmd": cmmd}
