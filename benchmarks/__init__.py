"""How fast equicert is, what sets the floor, and how cost grows: `python -m benchmarks`."""
