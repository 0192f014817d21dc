"""The page of a run, `report.html`: what it learned, on one page that needs no network."""
