"""The program as it runs: a float32 forward pass, stopped at its tolerance, and its bounds."""

from equicert.deployed.enclosure import Deployed, deployed_by
from equicert.deployed.program import deploy

__all__ = ["Deployed", "deploy", "deployed_by"]
