"""Figure 2 of [J22]: a robust and a non-robust network, certified and attacked over a grid."""
