"""Attacks: thin adapters over maintained libraries that search a box for a misclassified point.

FGSM and PGD run through foolbox, AutoAttack through pyautoattack.
"""

from equicert.attacks.auto import AutoAttack, Part
from equicert.attacks.base import Attack, AttackResult, Attempt, Status, Target
from equicert.attacks.gradient import FGSM, PGD

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "Attempt",
    "AutoAttack",
    "Part",
    "Status",
    "Target",
]
