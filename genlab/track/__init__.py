"""Where else a run is shown while it trains: sinks of its journal."""
