"""Why training prefers to change the potential: potential alone, dynamics alone, both."""
