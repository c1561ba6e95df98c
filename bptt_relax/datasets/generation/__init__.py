"""Making reference data: point defects in any host crystal, relaxed with Quantum ESPRESSO."""
