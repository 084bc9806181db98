"""Figure 1 of [J22]: Lipschitz training (8) with six weights lambda, and a MON, certified."""
