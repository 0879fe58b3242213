"""What a run is: settings, protocols, regimes, RunSpec, suites."""
