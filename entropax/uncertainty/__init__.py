"""How far a network may be trusted: scores, ranking, calibration."""
