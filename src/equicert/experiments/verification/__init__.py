"""Complete verification against the radius: what each method decides, and at what cost."""
