"""How far two sets of images are from each other, by their features [N, D]; no network, no files.

torchmetrics has FID and KID too, but around an Inception network of its own, whose weights it
fetches, and without CMMD; here the features are anybody's and the arithmetic is float64."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DmqError


SIGMA = 10.0  # of CMMD's kernel
FEWEST = {"fid": 16, "kid": 2, "cmmd": 2}  # images of a set
WHY = {
    "fid": "the covariance of n images has rank n - 1, and with fewer the distance measures "
    "little but n",
    "kid": "an unbiased estimate needs pairs of different images",
    "cmmd": "one image is no distribution",
}


def check_count(measure: str, count: int) -> None:
    """Raise DmqError if `count` images are too few for `measure`, saying the minimum and why."""
    if count < FEWEST[measure]:
        raise DmqError(
            f"{measure.upper()} needs at least {FEWEST[measure]} images, got {count}: "
            f"{WHY[measure]}. Draw more "
            f"prompts or seeds, or leave {measure.upper()} out."
        )


@dataclass(frozen=True, eq=False)
class Features:
    """A set of images as features [N, D], with what every distance to it needs computed once."""

    rows: np.ndarray

    @cached_property
    def mean(self) -> np.ndarray:
        return self.rows.mean(0)

    @cached_property
    def root(self) -> np.ndarray:
        """R [min(N, D), D] with R^T R the covariance."""
        centred = (self.rows - self.mean) / np.sqrt(len(self.rows) - 1)
        return centred if len(centred) <= centred.shape[1] else _root(centred.T @ centred)

    @cached_property
    def cubic(self) -> float:
        """The mean of KID's kernel over pairs of different images."""
        gram = _cubic(self.rows, self.rows)
        return (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1))

    @cached_property
    def unit(self) -> np.ndarray:
        return self.rows / np.linalg.norm(self.rows, axis=1, keepdims=True)

    @cached_property
    def gaussian(self) -> float:
        """The mean of CMMD's kernel, less 1, over all pairs."""
        return _gaussian(self.unit, self.unit)


Set = np.ndarray | Features


def fid(a: Set, b: Set, left_out: int = 0) -> float:
    """Fréchet distance of Gaussians fitted to features [N, D] and [M, D]; Heusel et al.,
    arXiv:1706.08500, eq. (6).

    Raises DmqError for fewer than 16 rows, `left_out` ones (for an interval) included. Biased
    upwards by about 1/n: compare with a noise floor of the same n."""
    a, b = _check("fid", a, b, left_out)
    return _frechet(a.mean, a.root, b.mean, b.root)


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """||mean_a - mean_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of means [D] and covariances [D,
    D].
    """
    return _frechet(mean_a, _root(cov_a), mean_b, _root(cov_b))


def _frechet(
    mean_a: np.ndarray, root_a: np.ndarray, mean_b: np.ndarray, root_b: np.ndarray
) -> float:
    """The same of factors R [k, D] with R^T R = S.

    Tr (S_a S_b)^(1/2) = Tr (S_a^(1/2) S_b S_a^(1/2))^(1/2) is the sum of the singular values of R_a
    R_b^T, whichever factors: no root of a product is taken, which is inexact where that is
    singular."""
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    apart = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(apart, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semidefinite matrix, by its eigendecomposition."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def kid(a: Set, b: Set, left_out: int = 0) -> float:
    """Unbiased MMD^2 of features [N, D], [M, D] with kernel (x.y / D + 1)^3; Binkowski et al.,
    arXiv:1801.01401.

    Around 0 for sets of the same distribution, so also below. Raises DmqError for fewer than 2
    rows."""
    a, b = _check("kid", a, b, left_out)
    return float(a.cubic + b.cubic - 2 * _cubic(a.rows, b.rows).mean())


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def cmmd(a: Set, b: Set, left_out: int = 0) -> float:
    """1000 MMD^2 of features [N, D], [M, D], scaled to unit length, with kernel exp(-||x - y||^2 /
    (2 * 10^2)).

    Jayasumana et al., arXiv:2401.09603, as released: pairs of an image with itself count (the
    biased estimate), so that it is 0 for equal sets only. Raises DmqError for fewer than 2 rows.
    """
    a, b = _check("cmmd", a, b, left_out)
    return 1000 * max(a.gaussian + b.gaussian - 2 * _gaussian(a.unit, b.unit), 0.0)


def _gaussian(x: np.ndarray, y: np.ndarray) -> float:
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return float(
        np.expm1(-squared.clip(0) / (2 * SIGMA**2)).mean()
    )  # less 1, which cancels in the distance


def _check(measure: str, a: Set, b: Set, left_out: int) -> tuple[Features, Features]:
    a, b = (x if isinstance(x, Features) else Features(np.asarray(x, np.float64)) for x in (a, b))
    if a.rows.ndim != 2 or b.rows.ndim != 2 or a.rows.shape[1] != b.rows.shape[1]:
        raise ValueError(
            f"features must be [N, D] and [M, D], got {a.rows.shape} and {b.rows.shape}"
        )
    check_count(measure, min(len(a.rows), len(b.rows)) + left_out)
    return a, b


SET_MEASURES = {"fid": fid, "kid": kid, "cmmd": cmmd}
