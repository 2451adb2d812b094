"""The groups that no figure is given of: of so few patients that it would be chance, and close to single persons."""

FEWEST_PATIENTS = 10  # this project's choice
TOO_FEW = f"< {FEWEST_PATIENTS}"
