"""Published values to compare with. Only numbers printed in a text: none is read off a curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

J22: Final = (
    "S. Jafarpour, A. Davydov, M. Abate, F. Bullo, S. Coogan, Robust Training and Verification of"
    " Implicit Neural Networks: A Non-Euclidean Contractive Approach, WFVML 2022, and the authors'"
    " notebooks"
)


@dataclass(frozen=True)
class ModelValues:
    """What is published of one model of Figure 2 of [J22]; None where nothing is.

    MNIST, n = 100, ReLU, mu(W) <= 0; accuracies are means, as fractions of the 10 000 test images,
    boxes of radius 0.1 in units of pixels clipped to [0, 1].

    Attributes:
        clean: clean accuracy.
        certified: certified accuracy by (14) at eps = 0.1.
        pgd: accuracy under PGD at eps = 0.1.
        epoch_seconds: time of one epoch of training.
        certify_seconds: time to certify the 10 000 test images by (14).
    """

    clean: float | None
    certified: float
    pgd: float
    epoch_seconds: float | None = None
    certify_seconds: float | None = None


FIGURE2_EPS: Final = 0.1
FIGURE2_SAMPLES: Final = 10_000
FIGURE2_MACHINE: Final = "one P100 GPU"
FIGURE2: Final = {
    "robust": ModelValues(0.954, 0.8313, 0.8584, 23.9, 11.29),
    "not robust": ModelValues(None, 0.0, 0.0804),
}


@dataclass(frozen=True)
class Figure1Values:
    """What is published of Figure 1 of [J22]: MNIST, n = 100, ReLU, mu(W) <= 0; seconds.

    Attributes:
        epoch_seconds: time of one epoch of Lipschitz training.
        lipschitz_seconds: time to certify the 10 000 test images by (13).
        interval_seconds: the same by (14).
    """

    epoch_seconds: float
    lipschitz_seconds: float
    interval_seconds: float


FIGURE1: Final = Figure1Values(9.8, 2.25, 11.29)


@dataclass(frozen=True)
class PublishedShare:
    """A certified accuracy on MNIST, as a fraction of the 10 000 test images.

    Attributes:
        name: in figures and tables.
        source: where it is printed.
        eps: radius of the boxes, in units of pixels.
        certified: by whichever method its authors used.
    """

    name: str
    source: str
    eps: float
    certified: float


G18: Final = (
    "S. Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably"
    " Robust Models, arXiv 1810.12715, and the authors' repository; feed-forward convolutions"
)
Z20: Final = (
    "H. Zhang et al., Towards Stable and Efficient Training of Verifiably Robust Neural Networks,"
    " ICLR 2020, and the authors' repository; feed-forward convolutions"
)
BEST_KNOWN: Final = (
    "about the most that is published for any network, by certified training of feed-forward"
    " convolutions and a complete verifier"
)
CERTIFIED: Final = (
    PublishedShare("implicit, dense [J22]", J22, 0.1, FIGURE2["robust"].certified),
    PublishedShare("IBP [G18]", G18, 0.1, 0.971),
    PublishedShare("CROWN-IBP [Z20]", Z20, 0.1, 0.978),
    PublishedShare("best known", BEST_KNOWN, 0.1, 0.984),
    PublishedShare("IBP [G18]", G18, 0.3, 0.918),
    PublishedShare("CROWN-IBP [Z20]", Z20, 0.3, 0.933),
    PublishedShare("best known", BEST_KNOWN, 0.3, 0.936),
)
